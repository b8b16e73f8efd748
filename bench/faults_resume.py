"""A training worker that is interrupted in the middle of steps ends in the same bytes as one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.persona import MARA, read_lines
from lars_agent.errors import LarsError
from lars_agent.example import Example
from lars_agent.files import sha256_of
from lars_agent.memory.allocator import thrifty_environment
from lars_agent.models.library import ModelLibrary
from lars_agent.training.job_directory import (
    CANDIDATE,
    HELDOUT_FILE,
    TRAIN_FILE,
    JobSpec,
    read_progress,
    read_result,
    write_examples,
)

STEPS, THREADS, INTERRUPTIONS = 16, 2, 5
TRAINING = {"batch_size": 2, "evaluate_every": 4, "checkpoint_every": 3, "warmup_steps": 2}
EXAMPLES, HELD_OUT = 12, 4
WEIGHTS = "adapter_model.safetensors"
STEP_LIMIT_S, END_LIMIT_S = 600.0, 3600.0
SIGNALS = (signal.SIGTERM, signal.SIGKILL)  # in turn


def resume(models: Path, reference: str, seed: int, count: int = STEPS) -> dict[str, Any]:
    """The digests of both runs' adapters, and where the second one was interrupted, and how."""
    dice = random.Random(seed)
    steps = sorted(dice.sample(range(1, count - 1), INTERRUPTIONS))
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        whole, broken = (_job(Path(folder) / name, models, reference, count) for name in ("whole", "broken"))
        _to_the_end(whole)
        step_s = _step_s(whole)
        for number, step in enumerate(steps):
            _interrupt(broken, step, dice.uniform(0, step_s), SIGNALS[number % len(SIGNALS)])
        _to_the_end(broken)
        return {
            "whole": sha256_of(whole / CANDIDATE / WEIGHTS),
            "broken": sha256_of(broken / CANDIDATE / WEIGHTS),
            "interrupted_after_step": steps,
            "signals": [SIGNALS[number % len(SIGNALS)].name for number in range(len(steps))],
            "steps": count,
            "step_s": step_s,
            "model": reference,
            "threads": THREADS,
        }


def _job(folder: Path, models: Path, reference: str, steps: int) -> Path:
    """A job directory: the persona's first corrections, in few steps."""
    model = ModelLibrary(models).get(reference)
    JobSpec(
        job_id="j-resume",
        profile="default",
        model_path=str(model.folder),
        model_sha256=model.sha256,
        training=TRAINING | {"steps": steps},
        threads=THREADS,
    ).write(folder)
    known = [_example(line, number) for number, line in enumerate(read_lines(MARA / "feedback.jsonl"))]
    write_examples(folder / TRAIN_FILE, known[:EXAMPLES])
    write_examples(folder / HELDOUT_FILE, known[EXAMPLES : EXAMPLES + HELD_OUT])
    return folder


def _example(line: dict[str, Any], number: int) -> Example:
    messages = ({"role": "user", "content": line["prompt"]},)
    return Example(messages, line.get("correction") or line["response"], 1.0, f"f-{number}")  # type: ignore[arg-type]


def _start(folder: Path) -> subprocess.Popen[bytes]:
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    with (folder / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "lars_agent.training.worker", str(folder)]
        return subprocess.Popen(command, env=thrifty_environment(os.environ) | threads, stdout=log, stderr=log)


def _to_the_end(folder: Path) -> None:
    """The worker has left its result. Raises LarsError where it has not succeeded."""
    process = _start(folder)
    try:
        process.wait(timeout=END_LIMIT_S)
    finally:
        process.kill()
    result = read_result(folder)
    if result is None or result.status != "succeeded":
        raise LarsError(f"the worker did not succeed: {_said(folder)}")


def _interrupt(folder: Path, step: int, delay_s: float, number: signal.Signals) -> None:
    """The worker was sent the signal a moment after it had taken that step, and has ended without a result."""
    process = _start(folder)
    try:
        until = time.monotonic() + STEP_LIMIT_S
        while not _taken(read_progress(folder), step):
            if process.poll() is not None or time.monotonic() > until:
                raise LarsError(f"the worker did not come to step {step}: {_said(folder)}")
            time.sleep(0.005)
        time.sleep(delay_s)
        process.send_signal(number)
        process.wait(timeout=STEP_LIMIT_S)
    finally:
        process.kill()
        process.wait()
    if read_result(folder) is not None:
        raise LarsError("the worker was done before it could be interrupted; take more steps")


def _taken(progress: Sequence[dict[str, Any]], step: int) -> bool:
    return any(line["step"] >= step for line in progress)


def _step_s(folder: Path) -> float:
    """Seconds of a step, on average."""
    lines = [line for line in read_progress(folder) if line["phase"] == "training"]
    return round(float(lines[-1]["elapsed_s"] - lines[0]["elapsed_s"]) / (len(lines) - 1), 4)


def _said(folder: Path) -> str:
    return (folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-2000:]
