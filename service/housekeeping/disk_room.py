"""The room that files take, and how it is freed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def taken_bytes(*paths: Path) -> int:
    """Bytes of the files, and of all files in the folders; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for file in _files(path):
            with contextlib.suppress(OSError):  # it may have gone meanwhile
                met = file.lstat()
                sizes[met.st_dev, met.st_ino] = met.st_size
    return sum(sizes.values())


def discard(path: Path) -> None:
    """The file or folder is gone; of a link only the link. What goes meanwhile, by itself, is gone as well."""
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
