"""Training beside requests, and training that is interrupted.

The time to the first token is measured in blocks that take turns: some requests with no job at all, then as many that
each find the worker in the middle of its steps. No prompt equals another and all have the same length, so that nothing
that was computed before helps. A worker that is interrupted in the middle of steps has to end in the same bytes as one
that is not.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.child import until
from bench.daemon import daemon_with, descendants, training_job, training_worker, worker_message
from bench.faults.scenario import MODULES, FaultSettings
from bench.models import ready_model
from examples.persona import MARA, lessons, read_lines
from examples.running import Daemon
from lars_agent.errors import LarsError
from lars_agent.files import sha256_of
from lars_agent.models.library import ModelLibrary
from lars_agent.training import job_directory

MODEL = "default"
BLOCKS, REQUESTS = 10, 5  # of each kind, and in each block
TOKENS = 8
PAUSE_S = 1.7  # after a reply: longer than the worker stays paused
MANY = "100000"
PROMPT = "Number {:03}. Tell me in a few sentences how bread is made, what it needs, and why it rises in the warm."


def latency(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """Milliseconds until the first token of each request, by kind, in the order of the pairs."""
    found: dict[str, Any] = {"idle_ms": [], "training_ms": [], "model": MODEL}
    model = ready_model(MODEL, "bfloat16", "cpu", settings.models)
    long = {f"training__{name}": MANY for name in ("steps", "checkpoint_every", "evaluate_every")}
    with daemon_with(model, 0, **long) as running:
        for line in read_lines(MARA / "feedback.jsonl"):
            running.post("/feedback", line)
        _first_token_ms(running, 999)
        for block in range(BLOCKS):
            first = 2 * block * REQUESTS
            found["idle_ms"] += _requests(running, range(first, first + REQUESTS))
            with training_job(running, steps=1):
                numbers = range(first + REQUESTS, first + 2 * REQUESTS)
                found["training_ms"] += _requests(running, numbers, training=True)
    return found


def _requests(running: Daemon, numbers: Iterable[int], *, training: bool = False) -> list[float]:
    """Milliseconds of each request, after a pause. Raises LarsError where the worker should run and does not."""
    assert running.process is not None
    found = []
    for number in numbers:
        time.sleep(PAUSE_S)
        workers = descendants(running.process.pid, MODULES["worker"]) if training else []
        if training and all(one.status() == psutil.STATUS_STOPPED for one in workers):
            raise LarsError("the worker is paused although there is no request; nothing would be measured")
        found.append(_first_token_ms(running, number))
    return found


def _first_token_ms(running: Daemon, number: int) -> float:
    """Milliseconds from sending the request until the first piece of the reply; the whole reply is read."""
    body = {"inputs": PROMPT.format(number), "parameters": {"max_new_tokens": TOKENS}}
    started, pieces = time.perf_counter(), list[float]()
    with running.http.stream("POST", "/generate_stream", json=body) as response:
        response.raise_for_status()
        pieces += [time.perf_counter() for line in response.iter_lines() if line.startswith("data:")]
    if not pieces:
        raise httpx.ReadError("no piece came")
    return round(1000 * (pieces[0] - started), 3)


STEPS, THREADS, INTERRUPTIONS = 16, 2, 5
TRAINING = {"batch_size": 2, "evaluate_every": 4, "checkpoint_every": 3, "warmup_steps": 2, "steps": STEPS}
EXAMPLES, HELD_OUT = 12, 4
WEIGHTS = Path(job_directory.CANDIDATE) / "adapter_model.safetensors"
STEP_LIMIT_S, END_LIMIT_S = 600.0, 3600.0
SIGNALS = (signal.SIGTERM, signal.SIGKILL)  # in turn


def resume(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """The digests of both runs' adapters, and the steps and signals of the interruptions."""
    rng = random.Random(settings.seed)
    steps = sorted(rng.sample(range(1, STEPS - 1), INTERRUPTIONS))
    signals = [SIGNALS[number % len(SIGNALS)] for number in range(INTERRUPTIONS)]
    whole, broken = (_write_job(folder / name, settings.models) for name in ("whole", "broken"))
    _complete(whole)
    lines = [line for line in job_directory.read_progress(whole) if line["phase"] == "training"]
    step_s = (lines[-1]["elapsed_s"] - lines[0]["elapsed_s"]) / (len(lines) - 1)
    for step, number in zip(steps, signals, strict=True):
        _interrupt(broken, step, rng.uniform(0, step_s), number)
    _complete(broken)
    return {
        "whole": sha256_of(whole / WEIGHTS),
        "broken": sha256_of(broken / WEIGHTS),
        "interrupted_after_step": steps,
        "signals": [number.name for number in signals],
        "steps": STEPS,
        "model": MODEL,
        "threads": THREADS,
    }


def _write_job(folder: Path, models: Path) -> Path:
    """Write a job directory with the persona's first corrections and few steps."""
    model, known = ModelLibrary(models).get(MODEL), lessons()
    job_directory.JobSpec(
        job_id="j-resume",
        profile="default",
        model_path=str(model.folder),
        model_sha256=model.sha256,
        training=TRAINING,
        threads=THREADS,
    ).write(folder)
    job_directory.write_examples(folder / job_directory.TRAIN_FILE, known[:EXAMPLES])
    job_directory.write_examples(folder / job_directory.HELDOUT_FILE, known[EXAMPLES : EXAMPLES + HELD_OUT])
    return folder


def _complete(folder: Path) -> None:
    """Run the worker to its end. Raises LarsError unless it succeeds."""
    with training_worker(folder, THREADS) as process:
        process.wait(timeout=END_LIMIT_S)
    result = job_directory.read_result(folder)
    if result is None or result.status != "succeeded":
        raise LarsError(f"the worker did not succeed: {worker_message(folder)}")


def _interrupt(folder: Path, step: int, delay_s: float, number: signal.Signals) -> None:
    """Send the worker the signal a moment after it has taken that step, and wait until it ends without a result."""
    with training_worker(folder, THREADS) as process:

        def has_come() -> bool:
            return any(line["step"] >= step for line in job_directory.read_progress(folder))

        until(lambda: has_come() or process.poll() is not None, STEP_LIMIT_S, 0.005)
        if not has_come():
            raise LarsError(f"the worker did not come to step {step}: {worker_message(folder)}")
        time.sleep(delay_s)
        process.send_signal(number)
        process.wait(timeout=STEP_LIMIT_S)
    if job_directory.read_result(folder) is not None:
        raise LarsError("the worker was done before it could be interrupted; take more steps")
