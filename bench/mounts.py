"""Filesystems that are there for a while: an image behind a loop device, and one in memory. Both need root."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lars_agent.errors import LarsError

TRIES, PAUSE_S = 20, 0.25


def make_image(image: Path, size_bytes: int) -> None:
    """`image` is an empty ext4 filesystem. Raises LarsError where mkfs cannot do it."""
    with image.open("xb") as file:
        file.truncate(size_bytes)
    _run(["mkfs.ext4", "-q", "-F", str(image)], "apt-get install e2fsprogs")


@contextmanager
def loop(image: Path, where: Path) -> Iterator[Path]:
    """The filesystem in `image` is `where`; ext4 replays its journal first, as after a power cut."""
    with _mounted(["-o", "loop", str(image)], where):
        yield where


@contextmanager
def tmpfs(where: Path, size_bytes: int) -> Iterator[Path]:
    """`where` is a filesystem in memory with so much room."""
    with _mounted(["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"], where):
        yield where


@contextmanager
def _mounted(what: Sequence[str], where: Path) -> Iterator[None]:
    where.mkdir(parents=True, exist_ok=True)
    _run(["mount", *what, str(where)], "this part needs root, and a system that lets it mount")
    try:
        yield
    finally:
        _unmount(where)


def _unmount(where: Path) -> None:
    """Whoever has just been killed may still hold a file for a moment; after that the mount goes with its last user."""
    for _ in range(TRIES):
        if not subprocess.run(["umount", str(where)], capture_output=True, check=False).returncode:
            return
        time.sleep(PAUSE_S)
    _run(["umount", "--lazy", str(where)], "unmount it by hand")


def _run(command: Sequence[str], hint: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LarsError(f"there is no {command[0]}; {hint}") from None
    if done.returncode:
        raise LarsError(f"{' '.join(command)}: {done.stderr.strip()}; {hint}")
