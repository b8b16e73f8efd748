"""Files that are either as they were or as they should be, never torn, whenever the power goes.

Temp, fsync, rename, fsync the folder: a rename replaces a name in one step, but only what was flushed before it is
sure to be behind the name afterwards, and only a flushed folder is sure to remember the rename.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lars_agent.errors import DiskFull

__all__ = ["fsync_folder", "make_folder", "publish_folder", "raise_disk_full", "sha256_of", "write_atomically"]


def write_atomically(path: Path, data: bytes | str | Iterable[bytes | memoryview]) -> None:
    """`path` holds `data`, durably; a crash at any moment leaves its former content or `data`, whole.

    Text is written as UTF-8; pieces are written one after another. The folder must exist (see `make_folder`). The
    temporary file beside it is named `.<name>.<random>.tmp` and is removed on every error. Raises DiskFull, or the
    OSError of another cause.
    """
    path = Path(path)
    text = data.encode() if isinstance(data, str) else data
    content = (text,) if isinstance(text, bytes) else text
    temp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with raise_disk_full(path):
        try:
            _write_durably(temp, content)
            temp.rename(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def publish_folder(temp: Path, final: Path) -> None:
    """`temp`, with all it holds, is durably named `final`; a crash leaves one of the two names, never a part of it.

    Both must lie on one filesystem. Raises FileExistsError if `final` exists (a published folder is never replaced),
    DiskFull, or the OSError of another cause; `temp` is then left to its maker to remove.
    """
    temp, final = Path(temp), Path(final)
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "a published folder is never replaced", str(final))
    with raise_disk_full(final):
        for folder, _, names in os.walk(temp, topdown=False):
            for name in names:
                _fsync_path(Path(folder, name), os.O_RDONLY)
            fsync_folder(Path(folder))
        temp.rename(final)
        fsync_folder(final.parent)


def make_folder(path: Path) -> Path:
    """`path` is a folder, and so are its parents; each one that was missing is durably named in its own parent."""
    path = Path(path)
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        with raise_disk_full(path):
            path.mkdir(exist_ok=True)
            fsync_folder(path.parent)
    return path


def fsync_folder(path: Path) -> None:
    """The names in the folder `path` (files made, renamed, removed) are on the disk."""
    _fsync_path(Path(path), os.O_RDONLY | os.O_DIRECTORY)


def sha256_of(path: Path) -> str:
    """The sha256 of the file's bytes, as 64 hexadecimal digits; read in pieces, so any size fits in memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def raise_disk_full(path: Path) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" inside the block into DiskFull that names `path`.

    What was half-written is for the block itself to remove.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no room on the disk to write {path} ({error.strerror}); free some space and try again"
        ) from error


def _write_durably(path: Path, content: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync_path(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
