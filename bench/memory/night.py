"""A night by a real daemon: its time next to an earlier commit's, the memory of all processes, the dtype's choice."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil

from bench.child import until
from bench.daemon import OK, PROMPTS, ask, held_mb
from bench.memory.dtypes import dtype_rows
from bench.record import CHECKOUT, Row, claimed
from bench.suite import parts_store
from examples.persona import MARA, read_lines
from examples.running import Daemon
from lars_agent.errors import LarsError

STEPS, ROUNDS_LIMIT_S, START_LIMIT_S = 60, 3600.0, 600.0
SERVE_S, PAUSE_S, SAMPLE_S = 30.0, 8.0, 0.25
TOKENS = 32
RESULT = "jobs/*/result.json"
BUSY_DEVICE = {"idle__max_cpu": "1.0", "idle__max_load": "100", "idle__max_memory_pressure": "100"}


def speedup(model: Path, rounds: int, revision: str) -> dict[str, Any]:
    """Seconds of the persona's job with as many steps in both, of this code and of `revision`, in turn."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        earlier = checked_out(revision, Path(folder))
        runs = [{"now": _seconds(model, CHECKOUT), "then": _seconds(model, earlier)} for _ in range(rounds)]
    return {"revision": revision, "steps": STEPS, "runs": runs}


def checked_out(revision: str, folder: Path) -> Path:
    """The files of that commit, in `folder`. Raises LarsError where the checkout lacks it."""
    done = subprocess.run(["git", "archive", revision], cwd=CHECKOUT, capture_output=True, check=False)
    if done.returncode:
        raise LarsError(f"there is no commit {revision}: {done.stderr.decode().strip()}; fetch the whole history")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _seconds(model: Path, checkout: Path) -> dict[str, float]:
    with _taught(model, checkout, training__steps=str(STEPS)) as running:
        job = running.post("/jobs", {"profile": "default"})["id"]
        until(lambda: list(running.state.glob(RESULT)), ROUNDS_LIMIT_S, 0.5)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in running.state.glob(RESULT)]
    if not found or found[0]["status"] != "succeeded":
        raise LarsError(f"job {job} did not succeed: {found or running.log_tail()}")
    return {name: found[0][name] for name in ("seconds", "cpu_seconds", "steps")}


def together(model: Path) -> dict[str, Any]:
    """The most MB of daemon, engine and worker, shared pages counted once: while it replies, and also during a job."""
    with _taught(model, CHECKOUT) as running:
        assert running.process is not None
        with _sampled(psutil.Process(running.process.pid)) as serving:
            ended = time.monotonic() + SERVE_S
            _ask_until(running, lambda: time.monotonic() > ended, 0.0)
        with _sampled(psutil.Process(running.process.pid)) as night:
            running.post("/jobs", {"profile": "default"})
            _ask_until(running, lambda: bool(list(running.state.glob(RESULT))), PAUSE_S)
    return {"serving_mb": max(serving), "night_mb": max(night), "samples": [len(serving), len(night)]}


def _ask_until(running: Daemon, is_over: Any, pause_s: float) -> None:
    number = 0
    while not is_over():
        if ask(running.http, PROMPTS[number % len(PROMPTS)], TOKENS).status != OK:
            raise LarsError("a request was not answered")
        number += 1
        until(is_over, pause_s, 0.2)


@contextmanager
def _taught(model: Path, checkout: Path, **settings: str) -> Iterator[Daemon]:
    """A daemon of that checkout's code that was told the persona's corrections and has replied."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        running = Daemon(Path(folder), {"model__name": str(model), **BUSY_DEVICE, **settings})
        serve = ["env", f"--chdir={checkout}", sys.executable, "-m", "service", "serve"]
        running.start(serve, PYTHONPATH=str(checkout))
        try:
            running.wait_until_healthy(START_LIMIT_S)
            running.post("/generate", {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 8}})
            for line in read_lines(MARA / "feedback.jsonl"):
                running.post("/feedback", line)
            yield running
        finally:
            running.stop()


@contextmanager
def _sampled(process: psutil.Process) -> Iterator[list[float]]:
    """Megabytes of the process and all below it, several times a second until the end of the block."""
    done, found = threading.Event(), list[float]()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            found.append(held_mb(process)["pss"])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def night_rows(parts: Mapping[str, Any]) -> list[Row]:
    """The rows of the parts that were measured."""
    rows = list[Row]()
    if found := parts.get("speedup"):
        runs: Sequence[Mapping[str, Any]] = found["runs"]
        for name, figure in (("night_speedup", "seconds"), ("night_cpu_speedup", "cpu_seconds")):
            rows.append(claimed(name, [run["then"][figure] / run["now"][figure] for run in runs], **found))
    if found := parts.get("together"):
        rows.append(claimed("night_over_serving_pss", [found["night_mb"] / found["serving_mb"]], **found))
    return [*rows, *dtype_rows(parts.get("dtypes", {}))]


NIGHT = parts_store("night-runs.jsonl", night_rows)
PARTS = ("speedup", "together", "dtypes")
