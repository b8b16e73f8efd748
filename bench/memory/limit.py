"""A memory cgroup for one process.

Works where this user may make groups below its own (cgroup v1 and v2). The group may not swap; a process that exceeds
the limit is killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lars_agent.errors import LarsError

CGROUPS = Path("/sys/fs/cgroup")
NAME = "lars-bench"
REMOVED_WITHIN_S = 5.0
# Each in version 2 and in version 1; a kernel may lack those of swap and of the peak.
LIMITS = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
NO_SWAP = ("memory.swap.max", "memory.swappiness")
PEAK, EVENTS = ("memory.peak", "memory.max_usage_in_bytes"), ("memory.events", "memory.oom_control")


@dataclass(frozen=True)
class MemoryLimit:
    """A group whose processes hold at most `limit_bytes` together, page cache included."""

    folder: Path
    limit_bytes: int

    def apply(self) -> None:
        """Set the limit, and switch swapping off."""
        for path in self._existing(LIMITS):
            path.write_text(str(self.limit_bytes))
        for path in self._existing(NO_SWAP):
            with contextlib.suppress(OSError):
                path.write_text("0")

    def peak_bytes(self) -> int | None:
        """The most that was ever charged to the group; None where the kernel does not tell."""
        return next((int(path.read_text()) for path in self._existing(PEAK)), None)

    def killed(self) -> bool:
        """Tell whether the kernel killed a process of the group for exceeding the limit."""
        words = [line.split() for path in self._existing(EVENTS) for line in path.read_text().splitlines()]
        return any(name == "oom_kill" and int(count) > 0 for name, count in words)

    def command(self, command: list[str]) -> list[str]:
        """The command that runs `command` in the group from its first page on."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *command]

    def _existing(self, names: tuple[str, ...]) -> list[Path]:
        return [self.folder / name for name in names if (self.folder / name).exists()]


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
    for path in filter(Path.is_file, folder.rglob("*")):
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
    if not any((group / name).exists() for name in LIMITS):
        _remove(group)
        raise LarsError(f"{group.parent} does not delegate the memory controller; leave out --limit")
    return group


def _own_group() -> Path:
    """The folder of our memory cgroup: v1's own hierarchy where there is one, else v2's."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    paths = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    first = next((path for controllers, path in paths.items() if "memory" in controllers.split(",")), None)
    return CGROUPS / paths[""] if first is None else CGROUPS / "memory" / first


def _remove(group: Path) -> None:
    """Remove the group; a process that has just ended may hold it for a moment."""
    deadline = time.monotonic() + REMOVED_WITHIN_S
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
