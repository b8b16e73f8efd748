"""How long a correction takes to be stored while the model replies, and while it is trained."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from bench.clients import PROMPTS, Client, daemon_with
from examples.persona import MARA, read_lines
from examples.running import Daemon

COUNT = 500
PAUSE_S = 0.01
TOKENS = 200
LIMIT_S = 600.0


def feedback_latency(model: Path) -> dict[str, Any]:
    """Milliseconds of `COUNT` calls each: with two clients being replied to, and with the worker in its steps."""
    with daemon_with(model, 0) as running:
        return {"generating_ms": generating(running), "training_ms": training(running)}


def generating(running: Daemon) -> list[float]:
    """While two clients are replied to."""
    done = threading.Event()
    clients = [Client(str(running.http.base_url), text, TOKENS, lambda _: not done.is_set()) for text in PROMPTS[:2]]
    threads = [client.start() for client in clients]
    time.sleep(1.0)
    try:
        return stored(running)
    finally:
        done.set()
        for thread in threads:
            thread.join()


def training(running: Daemon) -> list[float]:
    """While the worker is in its steps. Raises AssertionError where it has ended before."""
    job = running.post("/jobs", {"profile": "default"})
    started = time.monotonic()
    while len([line for line in progress(running, job) if line.get("step")]) < 2:
        assert time.monotonic() < started + LIMIT_S
        time.sleep(0.5)
    found = stored(running)
    assert running.get(f"/jobs/{job['id']}")["status"] == "running", "the job ended too early to say"
    running.post(f"/jobs/{job['id']}/cancel", {})
    return found


def progress(running: Daemon, job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(running.get(f"/jobs/{job['id']}/progress")["progress"])


def stored(running: Daemon) -> list[float]:
    """Milliseconds of each call."""
    lines, found = read_lines(MARA / "feedback.jsonl"), []
    for number in range(COUNT):
        line = lines[number % len(lines)] | {"response": f"I do not know ({number})."}
        started = time.perf_counter()
        running.post("/feedback", line)
        found.append(round(1000 * (time.perf_counter() - started), 3))
        time.sleep(PAUSE_S)
    return found
