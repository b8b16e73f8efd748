"""The cgroup that systemd delegated to the daemon: the daemon in `main/`, its worker in `train/` under a memory limit.

    lars-agent.service/    delegated (Delegate=memory); empty, because a cgroup whose children are limited holds nobody
      main/                the daemon, which has no limit
      train/               the worker of one run: memory.max, no swap, killed as a whole; removed after the run

The kernel's documentation: cgroup-v2, "Delegation" and "Memory Interface Files"; systemd's: CGROUP_DELEGATION.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from lars_agent.errors import LarsError

MAIN, TRAIN = "main", "train"
MEMORY = "memory"
MARKS = ("user.delegate", "trusted.delegate")  # the extended attributes by which systemd marks what it delegated
REMOVE_TRIES, REMOVE_WAIT_S = 100, 0.05


class CgroupUnavailable(LarsError):
    """The daemon has no cgroup in which it could limit its worker; the message names the reason and the remedy."""


class Cgroup:
    """A delegated cgroup whose `main/` holds the daemon; see `take_cgroup`."""

    def __init__(self, folder: Path) -> None:
        self._train = folder / TRAIN

    def begin(self, limit_bytes: int | None) -> Path:
        """Create `train/` with the limit (None: none); return the file by which a process enters it. Raises OSError."""
        self._remove()
        self._train.mkdir()
        (self._train / "memory.max").write_text("max" if limit_bytes is None else str(limit_bytes))
        (self._train / "memory.oom.group").write_text("1")
        if (self._train / "memory.swap.max").exists():  # not where the kernel counts no swap
            (self._train / "memory.swap.max").write_text("0")
        return self._train / "cgroup.procs"

    def end(self) -> tuple[int | None, bool]:
        """Remove `train/` with whatever still runs in it. Raises OSError.

        Returns the peak bytes, page cache included (None before Linux 5.19), and True if the kernel killed a process
        (`oom_kill`) at the cgroup's own limit (`oom`), not at the device's.
        """
        peak, counts = self._train / "memory.peak", (self._train / "memory.events").read_text().split()
        peak_bytes = int(peak.read_text()) if peak.exists() else None
        events = dict(zip(counts[::2], map(int, counts[1::2]), strict=True))
        self._remove()
        return peak_bytes, events.get("oom", 0) > 0 and events.get("oom_kill", 0) > 0

    def _remove(self) -> None:
        for tries in range(REMOVE_TRIES):
            try:
                self._train.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if tries == REMOVE_TRIES - 1:
                    raise
                with contextlib.suppress(OSError):  # before Linux 5.14 there is no such file: they end by themselves
                    (self._train / "cgroup.kill").write_text("1")
                time.sleep(REMOVE_WAIT_S)


def take_cgroup(proc: Path = Path("/proc/self")) -> Cgroup:
    """Move this process into `main/` of the cgroup it was delegated, so that its worker's memory can be limited.

    Nothing is touched that systemd did not delegate, nor what another process shares. Raises CgroupUnavailable.
    """
    own = _own_folder(proc)
    folder = next((candidate for candidate in (own, own.parent) if is_delegated(candidate)), None)
    if folder is None or own not in (folder, folder / MAIN):
        raise CgroupUnavailable(
            "no cgroup was delegated to this process; start it by systemd with Delegate=memory, as "
            "systemd/lars-agent.service does"
        )
    if MEMORY not in (folder / "cgroup.controllers").read_text().split():
        raise CgroupUnavailable(
            f"{folder} has no memory controller; where the kernel has it off (Raspberry Pi OS), add "
            "cgroup_enable=memory to the line in /boot/firmware/cmdline.txt and reboot; else the unit needs "
            "Delegate=memory"
        )
    try:
        inside = [int(pid) for file in folder.glob("**/cgroup.procs") for pid in file.read_text().split()]
        if others := set(inside) - {os.getpid()}:
            raise CgroupUnavailable(
                f"process {min(others)} shares the cgroup {folder}; start the daemon as a service of its own"
            )
        (folder / MAIN).mkdir(exist_ok=True)
        (folder / MAIN / "cgroup.procs").write_text(str(os.getpid()))
        (folder / "cgroup.subtree_control").write_text(f"+{MEMORY}")
    except OSError as error:
        raise CgroupUnavailable(
            f"{folder} cannot be managed ({error.strerror}); the unit needs Delegate=memory and ProtectControlGroups=no"
        ) from error
    return Cgroup(folder)


def is_delegated(folder: Path) -> bool:
    """Return True if systemd has delegated this cgroup to us.

    It marks what it hands over; before version 251 an unprivileged process cannot see that. Then it can be told by the
    owner: it is given to the unit's user, whereas the cgroup around it is not.
    """
    for mark in MARKS:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, mark) == b"1"
    with contextlib.suppress(OSError):
        return folder.stat().st_uid == os.geteuid() != folder.parent.stat().st_uid
    return False


def _own_folder(proc: Path) -> Path:
    """Return the folder of this process's cgroup, below the root. Raises CgroupUnavailable."""
    try:
        lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "mounts").read_text().splitlines()]
    except OSError as error:
        raise CgroupUnavailable(f"this system has no cgroups ({error.strerror})") from error
    if any(MEMORY in controllers.split(",") for _, controllers, _ in lines):
        raise CgroupUnavailable(
            "this system limits memory by cgroups of version 1; boot it with systemd.unified_cgroup_hierarchy=1"
        )
    path = next((path for number, _, path in lines if number == "0"), "/")
    mount = next((mount[1] for mount in mounts if mount[2] == "cgroup2"), None)
    if mount is None or path == "/" or ".." in Path(path).parts:
        raise CgroupUnavailable("this process is in no cgroup of its own that it can see (a container, perhaps)")
    return Path(mount, path.lstrip("/"))
