"""Temporary filesystems: an image behind a loop device, and one in memory. Both need root."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.child import run

TRIES, PAUSE_S = 20, 0.25
HINT = "this part needs root, and a system that lets it mount"


def make_image(image: Path, size_bytes: int) -> None:
    """Make an empty ext4 filesystem in the file `image`. Raises LarsError where mkfs cannot."""
    with image.open("xb") as file:
        file.truncate(size_bytes)
    run(["mkfs.ext4", "-q", "-F", str(image)], "mkfs.ext4", hint="run: apt-get install e2fsprogs")


@contextmanager
def loop(image: Path, where: Path) -> Iterator[Path]:
    """Mount the filesystem in `image` at `where`; ext4 replays its journal first, as after a power cut."""
    with _mounted(["-o", "loop", str(image)], where):
        yield where


@contextmanager
def tmpfs(where: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a filesystem in memory of that size at `where`."""
    with _mounted(["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"], where):
        yield where


@contextmanager
def _mounted(arguments: list[str], where: Path) -> Iterator[None]:
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", *arguments, str(where)], "mount", hint=HINT)
    try:
        yield
    finally:
        for _ in range(TRIES):  # a process that has just been killed may still hold a file for a moment
            if not subprocess.run(["umount", str(where)], capture_output=True, check=False).returncode:
                break
            time.sleep(PAUSE_S)
        else:
            run(["umount", "--lazy", str(where)], "umount", hint="unmount it by hand")
