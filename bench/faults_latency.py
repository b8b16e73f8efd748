"""How long a request that comes while the worker trains waits for its first token, next to one on an idle machine.

Blocks take turns: some requests with no job at all, then as many that each find the worker in the middle of its steps.
Every prompt is another one and as long as all others, so that nothing that was read before helps.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.feedback_latency import progress
from examples.persona import MARA, read_lines
from examples.running import Daemon, daemon
from lars_agent.errors import LarsError

BLOCKS, REQUESTS = 10, 5  # of each kind, and in each block
TOKENS = 8
PAUSE_S = 0.7  # after a reply, on top of the time after which the worker goes on
START_LIMIT_S = 600.0
PROMPT = "Number {:03}. Tell me in a few sentences how bread is made, what it needs, and why it rises in the warm."


def latency(models: Path, reference: str, folder: Path) -> dict[str, Any]:
    """Milliseconds until the first token of each request, by kind, in the order of the pairs."""
    found: dict[str, Any] = {"idle_ms": [], "training_ms": [], "steps": 0, "model": reference}
    (folder / "models").symlink_to(models.resolve())
    settings = {"training__steps": "100000", "training__checkpoint_every": "100000", "model__name": reference}
    with daemon(folder, **settings, training__evaluate_every="100000") as running:
        for line in read_lines(MARA / "feedback.jsonl"):
            running.post("/feedback", line)
        resume_s = PAUSE_S + 1.0
        _first_token_ms(running, 999)
        for block in range(BLOCKS):
            numbers = range(2 * block * REQUESTS, (2 * block + 1) * REQUESTS)
            found["idle_ms"] += _idle(running, list(numbers), resume_s)
            numbers = range((2 * block + 1) * REQUESTS, 2 * (block + 1) * REQUESTS)
            times, steps = _training(running, list(numbers), resume_s)
            found["training_ms"] += times
            found["steps"] += steps
    return found


def _idle(running: Daemon, numbers: list[int], pause_s: float) -> list[float]:
    """With nothing else to do."""
    found = []
    for number in numbers:
        time.sleep(pause_s)
        found.append(_first_token_ms(running, number))
    return found


def _training(running: Daemon, numbers: list[int], pause_s: float) -> tuple[list[float], int]:
    """While the worker trains; how many steps it has taken in all. Raises LarsError where it did not run each time."""
    job = running.post("/jobs", {"profile": "default"})
    started = time.monotonic()
    while len([line for line in progress(running, job) if line.get("step")]) < 1:
        if time.monotonic() > started + START_LIMIT_S:
            raise LarsError(f"the job did not begin: {running.get('/jobs/' + job['id'])}")
        time.sleep(0.5)
    found = []
    for number in numbers:
        time.sleep(pause_s)
        _require_running(running)
        found.append(_first_token_ms(running, number))
    steps = len(progress(running, job))
    running.post(f"/jobs/{job['id']}/cancel", {})
    while running.get(f"/jobs/{job['id']}")["finished"] is None:
        time.sleep(0.1)
    return found, steps


def _require_running(running: Daemon) -> None:
    """The worker is neither held nor gone."""
    for one in psutil.Process(running.process.pid).children(recursive=True):
        if any("training.worker" in word for word in one.cmdline()) and one.status() != psutil.STATUS_STOPPED:
            return
    raise LarsError("the worker stands still although nobody asks for anything; nothing would be measured")


def _first_token_ms(running: Daemon, number: int) -> float:
    """Milliseconds from sending the request until the first piece of the reply has come; the reply is then whole."""
    body = {"inputs": PROMPT.format(number), "parameters": {"max_new_tokens": TOKENS}}
    first: float | None = None
    started = time.perf_counter()
    with running.http.stream("POST", "/generate_stream", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if first is None and line.startswith("data:"):
                first = time.perf_counter()
    if first is None:
        raise httpx.ReadError("no piece came")
    return round(1000 * (first - started), 3)
