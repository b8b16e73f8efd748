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
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from bench.memory.cell import ALLOCATORS, VARIABLES, Cell
from bench.memory.limit import MemoryLimit, drop_page_cache, memory_limit
from bench.suite import FAILED
from lars_agent.errors import last_line

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
        process = subprocess.Popen(
            command if limit is None else limit.command(command),
            env=inherited() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            figures = _watch(process, time.monotonic() + time_limit_s)
            exit_status = process.wait(timeout=60)
            if exit_status or not figures:
                figures = {FAILED: _reason(exit_status, limit, errors)}
        except (TimeoutError, subprocess.TimeoutExpired):
            figures = {FAILED: f"not done after {time_limit_s:,.0f} seconds"}
        finally:
            process.kill()
            process.wait()
        if limit is not None:
            figures["cgroup_peak_bytes"] = limit.peak_bytes()
    return asdict(cell) | figures | {"environment": variables}


def _watch(process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    """Sample a process while it reports its progress (see `bench.memory.child`).

    Returns the figures that it reported at its end, with the sampled ones; none where it did not. Raises TimeoutError.
    """
    assert process.stdout is not None
    pipe, rest, done, is_sampling = process.stdout.fileno(), b"", dict[str, Any](), False
    loaded = peak = dict.fromkeys(KINDS, 0)
    while True:
        started = time.monotonic()
        if is_sampling:
            peak = {kind: max(found, peak[kind]) for kind, found in footprint(process.pid).items()}
        if time.monotonic() > deadline:
            raise TimeoutError
        pause_s = max(SAMPLE_S, PAUSE_FACTOR * (time.monotonic() - started)) if is_sampling else 1.0
        if not select.select([pipe], [], [], pause_s)[0]:
            continue
        piece = os.read(pipe, 65536)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for event in (json.loads(line) for line in lines if line.startswith(b'{"event"')):
            name = event.pop("event")
            is_sampling = name == "loaded"
            if is_sampling:
                loaded = peak = event
            if name == "done":
                done = event
    sampled = {"loaded": loaded, "peak": peak}
    return done and done | {f"{when}_{kind}_bytes": sampled[when][kind] for when in sampled for kind in ("pss", "uss")}


def inherited() -> dict[str, str]:
    """The environment without the variables that choose or tune an allocator."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def _reason(exit_status: int, limit: MemoryLimit | None, errors: IO[bytes]) -> str:
    """How it ended, with what is known of the cause."""
    number = signal.Signals(-exit_status) if exit_status < 0 else None
    ending = f"exit status {exit_status}" if number is None else f"signal {number.name}"
    if limit is not None and limit.killed():
        return f"{ending}: passed the limit of {limit.limit_bytes:,} bytes"
    if number == signal.SIGKILL:
        return f"{ending}, which the system sends when memory runs out"
    errors.seek(0)
    return f"{ending}: {last_line(errors.read().decode('utf-8', errors='replace'))}"
