"""A training worker that is interrupted in the middle of steps ends in the same bytes as one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.faults.clients import within
from examples.persona import lessons
from lars_agent.errors import LarsError
from lars_agent.files import sha256_of
from lars_agent.memory.allocator import thrifty_environment
from lars_agent.models.library import ModelLibrary
from lars_agent.training.job import (
    CANDIDATE,
    HELDOUT_FILE,
    TRAIN_FILE,
    JobSpec,
    read_progress,
    read_result,
    write_examples,
)

STEPS, THREADS, INTERRUPTIONS = 16, 2, 5
TRAINING = {"batch_size": 2, "evaluate_every": 4, "checkpoint_every": 3, "warmup_steps": 2, "steps": STEPS}
EXAMPLES, HELD_OUT = 12, 4
WEIGHTS = Path(CANDIDATE) / "adapter_model.safetensors"
STEP_LIMIT_S, END_LIMIT_S = 600.0, 3600.0
SIGNALS = (signal.SIGTERM, signal.SIGKILL)  # in turn


def resume(models: Path, reference: str, seed: int) -> dict[str, Any]:
    """The digests of both runs' adapters, and the steps and signals of the interruptions."""
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(1, STEPS - 1), INTERRUPTIONS))
    signals = [SIGNALS[number % len(SIGNALS)] for number in range(INTERRUPTIONS)]
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        whole, broken = (_job(Path(folder) / name, models, reference) for name in ("whole", "broken"))
        _complete(whole)
        lines = [line for line in read_progress(whole) if line["phase"] == "training"]
        step_s = round(float(lines[-1]["elapsed_s"] - lines[0]["elapsed_s"]) / (len(lines) - 1), 4)
        for step, number in zip(steps, signals, strict=True):
            _interrupt(broken, step, rng.uniform(0, step_s), number)
        _complete(broken)
        return {
            "whole": sha256_of(whole / WEIGHTS),
            "broken": sha256_of(broken / WEIGHTS),
            "interrupted_after_step": steps,
            "signals": [number.name for number in signals],
            "steps": STEPS,
            "step_s": step_s,
            "model": reference,
            "threads": THREADS,
        }


def _job(folder: Path, models: Path, reference: str) -> Path:
    """Write a job directory with the persona's first corrections and few steps."""
    model = ModelLibrary(models).get(reference)
    JobSpec(
        job_id="j-resume",
        profile="default",
        model_path=str(model.folder),
        model_sha256=model.sha256,
        training=TRAINING,
        threads=THREADS,
    ).write(folder)
    known = lessons()
    write_examples(folder / TRAIN_FILE, known[:EXAMPLES])
    write_examples(folder / HELDOUT_FILE, known[EXAMPLES : EXAMPLES + HELD_OUT])
    return folder


@contextmanager
def _worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on the job, killed at the end of the block."""
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-m", "lars_agent.training.worker", str(folder)]
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env=thrifty_environment(os.environ) | threads, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _complete(folder: Path) -> None:
    """Run the worker to its end. Raises LarsError unless it succeeds."""
    with _worker(folder) as process:
        process.wait(timeout=END_LIMIT_S)
    result = read_result(folder)
    if result is None or result.status != "succeeded":
        raise LarsError(f"the worker did not succeed: {_log_tail(folder)}")


def _interrupt(folder: Path, step: int, delay_s: float, number: signal.Signals) -> None:
    """Send the worker the signal a moment after it has taken that step, and wait until it ends without a result."""
    with _worker(folder) as process:
        going = within(STEP_LIMIT_S)
        while not any(line["step"] >= step for line in read_progress(folder)):
            if process.poll() is not None or not going():
                raise LarsError(f"the worker did not come to step {step}: {_log_tail(folder)}")
            time.sleep(0.005)
        time.sleep(delay_s)
        process.send_signal(number)
        process.wait(timeout=STEP_LIMIT_S)
    if read_result(folder) is not None:
        raise LarsError("the worker was done before it could be interrupted; take more steps")


def _log_tail(folder: Path) -> str:
    return (folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-2000:]
