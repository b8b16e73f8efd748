"""Atomic, durable file operations: temporary file, fsync, rename, fsync of the folder.

A rename is atomic, but after a power failure only data flushed before it is complete, and only a flushed folder is
certain to contain the new name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path

from lars_agent.errors import DiskFull

MOST_TEXT_BYTES = 256 * 2**20
PRIVATE_UMASK = 0o077  # of every process that writes what people said, or what was learned from it


def write_atomically(path: Path, data: bytes | str | Iterable[bytes | memoryview], mode: int = 0o666) -> None:
    """Replace the content of `path` by `data`; a crash leaves the old content or the new, whole.

    Text is written as UTF-8, in a file of that `mode` less the umask. The folder must exist (see `make_folder`). The
    temporary file is `.<name>.<random>.tmp` in the same folder and is removed on every error. Raises DiskFull, or
    OSError for another cause.
    """
    path = Path(path)
    text = data.encode() if isinstance(data, str) else data
    content = (text,) if isinstance(text, bytes) else text
    temp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with raise_disk_full(path):
        try:
            with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def publish_folder(temp: Path, final: Path) -> None:
    """Rename the folder `temp` to `final` after flushing its content; a crash leaves one of the two names.

    Both must be on one filesystem. Raises FileExistsError if `final` exists, DiskFull, or OSError for another cause;
    the caller then removes `temp`.
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
    """Create the folder `path` and its missing parents durably, and return it."""
    path = Path(path)
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        with raise_disk_full(path):
            path.mkdir(exist_ok=True)
            fsync_folder(path.parent)
    return path


def fsync_folder(path: Path) -> None:
    """Flush the names in the folder `path` (files created, renamed, removed) to the disk."""
    _fsync_path(Path(path), os.O_RDONLY | os.O_DIRECTORY)


def sha256_of(path: Path, *, follow: bool = True) -> str:
    """Return the sha256 of the file, as 64 hexadecimal digits, without reading it whole into memory."""
    with open_plain(path, follow=follow) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_plain(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a file for reading. Raises OSError for what is no plain file: a pipe or a device may never end.

    Without `follow` a symbolic link is none either.
    """
    flags = os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)  # else the open itself waits for a pipe's writer
    file = open(path, "rb", opener=partial(_open_with, flags))  # noqa: SIM115 (Path.open takes no opener)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "this is no plain file", str(path))
    return file


def read_plain(path: Path, *, follow: bool = True) -> bytes:
    """Return the content of a file of text. Raises OSError for what is no plain file, or larger than any we write."""
    with open_plain(path, follow=follow) as file:
        content = file.read(MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"the file is larger than {MOST_TEXT_BYTES:,} bytes", str(path))
    return content


@contextmanager
def raise_disk_full(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into DiskFull that names `path`; the block removes its own files."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no room on the disk to write {path} ({error.strerror}); free some space and try again"
        ) from error


def _open_with(extra: int, path: str, flags: int) -> int:
    return os.open(path, flags | extra)


def _fsync_path(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
