"""The process of a cell: started, its memory sampled from outside, its figures or its failure recorded.

Its memory can be limited by a cgroup where this user may make groups below its own (cgroup v1 and v2). The group may
not swap; a process that exceeds the limit is killed.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from bench.child import until
from bench.memory.cell import VARIABLES, Cell, allocator_environment
from bench.suite import FAILED
from lars_agent.errors import LarsError, last_line

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
    variables = allocator_environment(cell.allocator) | {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if cell.limit_bytes is not None:
        drop_page_cache(folder)
    with memory_limit(cell.limit_bytes) as group, tempfile.TemporaryFile() as errors:
        enter = [] if group is None else [*ENTER, str(group)]
        process = subprocess.Popen(
            [*enter, sys.executable, "-m", "bench.memory.child", str(folder), json.dumps(asdict(cell))],
            env=inherited() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            figures = _watch(process, time.monotonic() + time_limit_s)
            status = process.wait(timeout=60)
            ending = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        except (TimeoutError, subprocess.TimeoutExpired):
            figures, status, ending = {}, None, f"not done after {time_limit_s:,.0f} seconds"
        finally:
            process.kill()
            process.wait()
        if status != 0 or not figures:
            figures = {FAILED: _reason(ending, cell, group, errors)}
        if group is not None:
            figures["cgroup_peak_bytes"] = next((int(path.read_text()) for path in _existing(group, PEAK)), None)
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


def _reason(ending: str, cell: Cell, group: Path | None, errors: IO[bytes]) -> str:
    """The ending, with what is known of its cause."""
    if group is not None and any(KILLED.search(path.read_text()) for path in _existing(group, EVENTS)):
        return f"{ending}: passed the limit of {cell.limit_bytes:,} bytes"
    if ending == f"signal {signal.SIGKILL.name}":
        return f"{ending}, which the system sends when memory runs out"
    errors.seek(0)
    return f"{ending}: {last_line(errors.read().decode('utf-8', errors='replace'))}"


CGROUPS = Path("/sys/fs/cgroup")
REMOVED_WITHIN_S = 5.0
# Each in version 2 and in version 1; a kernel may lack those of swap and of the peak.
LIMITS = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
NO_SWAP = ("memory.swap.max", "memory.swappiness")
PEAK, EVENTS = ("memory.peak", "memory.max_usage_in_bytes"), ("memory.events", "memory.oom_control")
KILLED = re.compile(r"^oom_kill [1-9]", re.MULTILINE)
ENTER = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')  # from the first page on


@contextmanager
def memory_limit(limit_bytes: int | None) -> Iterator[Path | None]:
    """A group whose processes hold at most that many bytes together, page cache included; removed afterwards.

    Raises LarsError where it is impossible.
    """
    if limit_bytes is None:
        yield None
        return
    try:
        group = _own_group() / f"lars-bench-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        raise LarsError(
            f"no memory limit can be set on this machine ({error}); leave out --limit, or run it as root"
        ) from error
    try:
        if not _existing(group, LIMITS):
            raise LarsError(f"{group.parent} does not delegate the memory controller; leave out --limit")
        for path in _existing(group, LIMITS):
            path.write_text(str(limit_bytes))
        for path in _existing(group, NO_SWAP):
            with suppress(OSError):
                path.write_text("0")
        yield group
    finally:
        until(lambda: _is_removed(group), REMOVED_WITHIN_S)


def _existing(group: Path, names: Sequence[str]) -> list[Path]:
    return [group / name for name in names if (group / name).exists()]


def _own_group() -> Path:
    """The folder of our memory cgroup: v1's own hierarchy where there is one, else v2's."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    paths = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    return CGROUPS / "memory" / paths["memory"] if "memory" in paths else CGROUPS / paths[""]


def _is_removed(group: Path) -> bool:
    """Try to remove it; a process that has just ended may hold it for a moment."""
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def drop_page_cache(folder: Path) -> None:
    """Drop the cached pages of the folder's files, unless somebody maps them: the next reader is charged for them."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
