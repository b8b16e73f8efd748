"""The process of a cell: started, and its figures or its failure recorded.

Its memory can be limited by a cgroup where this user may make groups below its own (cgroup v1 and v2). The group may
not swap; a process that exceeds the limit is killed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.child import call, until
from bench.memory.cell import VARIABLES, Cell, allocator_environment
from bench.models import ready_model
from bench.suite import FAILED, Record
from lars_agent.errors import LarsError
from lars_agent.records import from_json


def measure(subject: Record, models: Path, time_limit_s: float) -> dict[str, Any]:
    """The figures of the cell, or `failed` with the reason. Raises LarsError where its model cannot be had."""
    cell = from_json(Cell, subject)
    folder = ready_model(cell.model, cell.dtype, cell.device, models)
    threads = str(cell.threads or os.cpu_count() or 1)
    variables = allocator_environment(cell.allocator) | {"OMP_NUM_THREADS": threads}
    environment, function = inherited() | variables, "bench.memory.child.measured"
    if cell.limit_bytes is not None:
        drop_page_cache(folder)
    with memory_limit(cell.limit_bytes) as group:
        enter = [] if group is None else [*ENTER, str(group)]
        try:
            figures = call(function, folder, subject, environment=environment, limit_s=time_limit_s, enter=enter)
        except LarsError as error:
            killed = group is not None and any(KILLED.search(path.read_text()) for path in _existing(group, EVENTS))
            figures = {FAILED: f"passed the limit of {cell.limit_bytes:,} bytes" if killed else str(error)}
    return figures | {"environment": variables}


def inherited() -> dict[str, str]:
    """The environment without the variables that choose or tune an allocator."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


CGROUPS = Path("/sys/fs/cgroup")
REMOVED_WITHIN_S = 5.0
# Each in version 2 and in version 1; a kernel may lack those of swap.
LIMITS = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
NO_SWAP = ("memory.swap.max", "memory.swappiness")
EVENTS = ("memory.events", "memory.oom_control")
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
