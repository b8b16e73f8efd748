"""A cell measured: its process started, its memory sampled from outside, its figures or its end written down."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench import record
from bench.allocators import ALLOCATORS, VARIABLES
from bench.cell import Cell
from bench.cells_file import FAILED
from bench.footprint import Footprint, footprint_of
from bench.memory_limit import MemoryLimit, forget_pages, memory_limit

SAMPLE_S = 0.03
COURTESY = 2.0  # between two samples lies at least this many times what one takes


def measure(cell: Cell, folder: Path, time_limit_s: float) -> dict[str, Any]:
    """The cell's record: its figures, or `failed` with the reason, and all it takes to measure it again."""
    variables = _variables(cell)
    if cell.limit_bytes is not None:
        forget_pages(folder)
    with memory_limit(cell.limit_bytes) as limit, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-P", "-m", "bench.memory_cell", str(folder), json.dumps(cell.as_dict())]
        watched = Watched(command if limit is None else limit.command(command), variables, errors)
        figures = watched.figures(time_limit_s)
        if FAILED in figures:
            figures[FAILED] = _reason(figures[FAILED], limit, errors)
        if limit is not None:
            figures["cgroup_peak_bytes"] = limit.peak_bytes()
    return cell.as_dict() | figures | _circumstances(variables)


class Watched:
    """A process that says what it is at (see `bench.memory_cell`), sampled meanwhile."""

    def __init__(self, command: list[str], variables: dict[str, str], errors: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            command, env=_inherited() | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        self.loaded = self.peak = Footprint()
        self.sampling = False
        self.done: dict[str, Any] | None = None

    def figures(self, time_limit_s: float) -> dict[str, Any]:
        """What the process said and what was seen of it once it has ended; `failed` if it did not come to its end."""
        try:
            for event in self._events(time.monotonic() + time_limit_s):
                self._hear(event)
            exit_status = self.process.wait(timeout=60)
        except (TimeoutError, subprocess.TimeoutExpired):
            return {FAILED: f"not done after {time_limit_s:,.0f} seconds"}
        finally:
            self.process.kill()
            self.process.wait()
        if self.done is None or exit_status:
            return {FAILED: _ending(exit_status)}
        return self.done | self._sampled()

    def _events(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Each JSON line as it comes, until the pipe is closed; between them the process is sampled."""
        assert self.process.stdout is not None
        pipe, rest = self.process.stdout.fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                pause_s = self._sample() if self.sampling else 1.0
                if time.monotonic() > deadline:
                    raise TimeoutError
                if not selector.select(pause_s):
                    continue
                piece = os.read(pipe, 65536)
                if not piece:
                    return
                *lines, rest = (rest + piece).split(b"\n")
                yield from (json.loads(line) for line in lines if line.startswith(b'{"event"'))

    def _sample(self) -> float:
        """The peaks are brought up to date; returns the seconds to wait until the next time."""
        started = time.monotonic()
        self.peak = self.peak.at_least(footprint_of(self.process.pid) or Footprint())
        return max(SAMPLE_S, COURTESY * (time.monotonic() - started))

    def _hear(self, event: dict[str, Any]) -> None:
        name = event.pop("event")
        if name == "loaded":
            self.loaded = self.peak = Footprint(**event)
        if name == "done":
            self.done = event
        self.sampling = name == "loaded"

    def _sampled(self) -> dict[str, int]:
        return {
            "loaded_pss_bytes": self.loaded.pss,
            "loaded_uss_bytes": self.loaded.uss,
            "peak_pss_bytes": self.peak.pss,
            "peak_uss_bytes": self.peak.uss,
        }


def _variables(cell: Cell) -> dict[str, str]:
    threads = str(cell.threads or os.cpu_count() or 1)
    return ALLOCATORS[cell.allocator].environment() | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}


def _inherited() -> dict[str, str]:
    """Our environment, without what would choose the process's allocator for it."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def _circumstances(variables: dict[str, str]) -> dict[str, Any]:
    return {
        "environment": variables,
        "commit": record.commit(),
        "when": record.now(),
        "machine": record.machine(),
        "versions": record.versions(),
    }


def _ending(exit_status: int) -> str:
    return f"signal {signal.Signals(-exit_status).name}" if exit_status < 0 else f"exit status {exit_status}"


def _reason(ending: str, limit: MemoryLimit | None, errors: IO[bytes]) -> str:
    """The ending, with what is known of its cause."""
    if limit is not None and limit.killed():
        return f"{ending}: passed the limit of {limit.limit_bytes:,} bytes"
    errors.seek(0)
    lines = errors.read().decode("utf-8", errors="replace").strip().splitlines()
    if ending == f"signal {signal.SIGKILL.name}":
        return f"{ending}, which the system sends when memory runs out"
    return f"{ending}: {lines[-1]}" if lines else ending
