"""Time to the first token of requests that come while the worker trains, next to an idle machine.

Blocks take turns: some requests with no job at all, then as many that each find the worker in the middle of its steps.
No prompt equals another and all have the same length, so that nothing that was computed before helps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.serve.clients import steps_of, store_persona, training_job
from examples.running import Daemon, daemon
from lars_agent.errors import LarsError

BLOCKS, REQUESTS = 10, 5  # of each kind, and in each block
TOKENS = 8
PAUSE_S = 1.7  # after a reply: longer than the worker stays paused
MANY = "100000"
PROMPT = "Number {:03}. Tell me in a few sentences how bread is made, what it needs, and why it rises in the warm."


def latency(models: Path, reference: str, folder: Path) -> dict[str, Any]:
    """Milliseconds until the first token of each request, by kind, in the order of the pairs."""
    found: dict[str, Any] = {"idle_ms": [], "training_ms": [], "steps": 0, "model": reference}
    (folder / "models").symlink_to(models.resolve())
    settings = {f"training__{name}": MANY for name in ("steps", "checkpoint_every", "evaluate_every")}
    with daemon(folder, **settings, model__name=reference) as running:
        store_persona(running)
        _first_token_ms(running, 999)
        for block in range(BLOCKS):
            first = 2 * block * REQUESTS
            found["idle_ms"] += _requests(running, range(first, first + REQUESTS))
            with training_job(running, steps=1) as path:
                numbers = range(first + REQUESTS, first + 2 * REQUESTS)
                found["training_ms"] += _requests(running, numbers, training=True)
                found["steps"] += steps_of(running, path)
    return found


def _requests(running: Daemon, numbers: Iterable[int], *, training: bool = False) -> list[float]:
    """Milliseconds of each request, after a pause. Raises LarsError where the worker should run and does not."""
    found = []
    for number in numbers:
        time.sleep(PAUSE_S)
        if training:
            _require_running(running)
        found.append(_first_token_ms(running, number))
    return found


def _require_running(running: Daemon) -> None:
    assert running.process is not None
    for one in psutil.Process(running.process.pid).children(recursive=True):
        if any("training.worker" in word for word in one.cmdline()) and one.status() != psutil.STATUS_STOPPED:
            return
    raise LarsError("the worker is paused although there is no request; nothing would be measured")


def _first_token_ms(running: Daemon, number: int) -> float:
    """Milliseconds from sending the request until the first piece of the reply; the whole reply is read."""
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
