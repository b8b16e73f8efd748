"""What the daemon holds while the model is unloaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from bench.clients import PROMPTS, ask, daemon_with
from bench.footprint import Footprint, footprint_of
from lars_agent.errors import LarsError

KEEP_ALIVE_S, SETTLE_S, LIMIT_S = 1.0, 3.0, 60.0
MB = 10**6


def asleep(model: Path) -> dict[str, Any]:
    """MB of the daemon and of every process that it has started, after a reply and a pause."""
    with daemon_with(model, 0, runtime__keep_alive_s=str(KEEP_ALIVE_S)) as running:
        ask(running.http, PROMPTS[0], 8)
        process = psutil.Process(running.process.pid)
        awake = held(process)
        until = time.monotonic() + LIMIT_S
        while process.children(recursive=True):
            if time.monotonic() > until:
                raise LarsError("the model was not unloaded")
            time.sleep(0.2)
        time.sleep(SETTLE_S)
        return {"awake": awake, "asleep": held(process)}


def held(process: psutil.Process) -> dict[str, float]:
    """MB of a process and its descendants together."""
    found = [footprint_of(one.pid) or Footprint() for one in (process, *process.children(recursive=True))]
    return {name: round(sum(getattr(one, name) for one in found) / MB, 2) for name in ("rss", "pss", "uss")}
