"""A memory cgroup for one process: `python -m bench.memory.limit GROUP COMMAND...` runs COMMAND in GROUP.

Works where this user may make groups below its own (cgroup v1 and v2). The group may not swap; a process that exceeds
the limit is killed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lars_agent.errors import LarsError

CGROUPS = Path("/sys/fs/cgroup")
NAME = "lars-bench"
REMOVED_WITHIN_S = 5.0


class MemoryLimit:
    """A group whose processes hold at most `limit_bytes` together, page cache included."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.is_v2 = (folder / "memory.max").exists()

    def apply(self) -> None:
        """Set the limit, and switch swapping off."""
        limit = str(self.limit_bytes)
        names = ("memory.max",) if self.is_v2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        for name in names:
            if (self.folder / name).exists():
                (self.folder / name).write_text(limit)
        for name in ("memory.swap.max", "memory.swappiness"):
            with contextlib.suppress(OSError):
                if (self.folder / name).exists():
                    (self.folder / name).write_text("0")

    def peak_bytes(self) -> int | None:
        """The most that was ever charged to the group; None where the kernel does not tell."""
        path = self.folder / ("memory.peak" if self.is_v2 else "memory.max_usage_in_bytes")
        return int(path.read_text()) if path.exists() else None

    def killed(self) -> bool:
        """Tell whether the kernel killed a process of the group for exceeding the limit."""
        path = self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")
        counts = dict(line.split() for line in path.read_text().splitlines() if len(line.split()) == 2)
        return int(counts.get("oom_kill", 0)) > 0

    def command(self, command: list[str]) -> list[str]:
        """The command that runs `command` in the group from its first page on."""
        return [sys.executable, "-m", "bench.memory.limit", str(self.folder), *command]


@contextlib.contextmanager
def memory_limit(limit_bytes: int | None) -> Iterator[MemoryLimit | None]:
    """Make a limit to run a process under, and remove the group afterwards. Raises LarsError where it is impossible."""
    if limit_bytes is None:
        yield None
        return
    limit = MemoryLimit(_new_group(), limit_bytes)
    try:
        limit.apply()
        yield limit
    finally:
        _remove(limit.folder)


def drop_page_cache(folder: Path) -> None:
    """Drop the cached pages of the folder's files, unless somebody maps them: the next reader is charged for them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _new_group() -> Path:
    """Make an empty group below our own in which memory can be limited."""
    try:
        group = _own_group() / f"{NAME}-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        raise LarsError(
            f"no memory limit can be set on this machine ({error}); leave out --limit, or run it as root"
        ) from error
    if not any((group / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
        _remove(group)
        raise LarsError(f"{group.parent} does not delegate the memory controller; leave out --limit")
    return group


def _own_group() -> Path:
    """The folder of our memory cgroup: v1's own hierarchy where there is one, else v2's."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    memberships = [line.split(":", 2) for line in lines]
    for _, controllers, path in memberships:
        if "memory" in controllers.split(","):
            return CGROUPS / "memory" / path.lstrip("/")
    return CGROUPS / next(path for number, _, path in memberships if number == "0").lstrip("/")


def _remove(group: Path) -> None:
    """Remove the group; a process that has just ended may hold it for a moment."""
    deadline = time.monotonic() + REMOVED_WITHIN_S
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)


if __name__ == "__main__":
    (Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
    os.execvp(sys.argv[2], sys.argv[2:])
