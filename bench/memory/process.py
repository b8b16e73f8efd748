"""The process of a cell: started, its memory sampled from outside, its figures or its failure recorded."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from bench.memory.cell import ALLOCATORS, VARIABLES, Cell
from bench.memory.limit import MemoryLimit, drop_page_cache, memory_limit
from bench.suite import FAILED

KINDS = ("rss", "pss", "uss")
SAMPLE_S = 0.03
PAUSE_FACTOR = 2.0  # between two samples lies at least this many times what one takes


def footprint(pid: int) -> dict[str, int]:
    """Bytes of a process: resident, resident with shared pages divided among their users, and private.

    Zeros where it has ended.
    """
    try:
        found = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return dict.fromkeys(KINDS, 0)
    return {kind: getattr(found, kind) for kind in KINDS}


def measure(cell: Cell, folder: Path, time_limit_s: float) -> dict[str, Any]:
    """Measure the cell on the model in `folder`; return its record with its figures, or `failed` with the reason."""
    threads = str(cell.threads or os.cpu_count() or 1)
    variables = ALLOCATORS[cell.allocator].environment() | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if cell.limit_bytes is not None:
        drop_page_cache(folder)
    with memory_limit(cell.limit_bytes) as limit, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "bench.memory.child", str(folder), json.dumps(asdict(cell))]
        watched = Watched(command if limit is None else limit.command(command), variables, errors)
        figures = watched.figures(time_limit_s)
        if FAILED in figures:
            figures[FAILED] = _reason(figures[FAILED], limit, errors)
        if limit is not None:
            figures["cgroup_peak_bytes"] = limit.peak_bytes()
    return asdict(cell) | figures | {"environment": variables}


class Watched:
    """A process that reports its progress (see `bench.memory.child`), sampled meanwhile."""

    def __init__(self, command: list[str], variables: dict[str, str], errors: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            command, env=inherited() | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        self.loaded = self.peak = dict.fromkeys(KINDS, 0)
        self.sampling = False
        self.done: dict[str, Any] | None = None

    def figures(self, time_limit_s: float) -> dict[str, Any]:
        """Wait for the end; return the figures that the process reported and the sampled ones, or `failed`."""
        try:
            for event in self._events(time.monotonic() + time_limit_s):
                self._handle(event)
            exit_status = self.process.wait(timeout=60)
        except (TimeoutError, subprocess.TimeoutExpired):
            return {FAILED: f"not done after {time_limit_s:,.0f} seconds"}
        finally:
            self.process.kill()
            self.process.wait()
        if self.done is None or exit_status:
            signalled = exit_status < 0
            return {
                FAILED: f"signal {signal.Signals(-exit_status).name}" if signalled else f"exit status {exit_status}"
            }
        sampled = {"loaded": self.loaded, "peak": self.peak}
        return self.done | {
            f"{when}_{kind}_bytes": found[kind] for when, found in sampled.items() for kind in ("pss", "uss")
        }

    def _events(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Yield each JSON line as it comes, until the pipe is closed; sample the process in between."""
        assert self.process.stdout is not None
        pipe, rest = self.process.stdout.fileno(), b""
        while True:
            pause_s = self._sample() if self.sampling else 1.0
            if time.monotonic() > deadline:
                raise TimeoutError
            if not select.select([pipe], [], [], pause_s)[0]:
                continue
            piece = os.read(pipe, 65536)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            yield from (json.loads(line) for line in lines if line.startswith(b'{"event"'))

    def _sample(self) -> float:
        """Update the peaks; return the seconds to wait until the next sample."""
        started = time.monotonic()
        self.peak = {kind: max(found, self.peak[kind]) for kind, found in footprint(self.process.pid).items()}
        return max(SAMPLE_S, PAUSE_FACTOR * (time.monotonic() - started))

    def _handle(self, event: dict[str, Any]) -> None:
        name = event.pop("event")
        if name == "loaded":
            self.loaded = self.peak = event
        if name == "done":
            self.done = event
        self.sampling = name == "loaded"


def inherited() -> dict[str, str]:
    """The environment without the variables that choose or tune an allocator."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def _reason(ending: str, limit: MemoryLimit | None, errors: IO[bytes]) -> str:
    """The ending, with what is known of its cause."""
    if limit is not None and limit.killed():
        return f"{ending}: passed the limit of {limit.limit_bytes:,} bytes"
    errors.seek(0)
    lines = errors.read().decode("utf-8", errors="replace").strip().splitlines()
    if ending == f"signal {signal.SIGKILL.name}":
        return f"{ending}, which the system sends when memory runs out"
    return f"{ending}: {lines[-1]}" if lines else ending
