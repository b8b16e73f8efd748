"""The lock that lets one daemon at a time use a data folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from lars_agent.errors import ConfigError, LarsError
from lars_agent.files import make_folder

LOCK_NAME = "daemon.lock"
SHOWN_CHARS = 200  # of the holder's command
NOT_PLAIN = "{} is a link, or no plain file; delete it"


class DataInUse(LarsError):
    """Another daemon uses this data folder."""


class DataLock:
    """An flock on a file of the data folder; the kernel releases it when the process ends.

    The file holds the process id, start and command of the last holder, for the error message only. Raises DataInUse,
    and ConfigError if it is no plain file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = _open_plain(make_folder(folder) / LOCK_NAME)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            written = self._file.read().decode(errors="replace").splitlines()
            pid, since, command = [*written, *["unknown"] * 3][:3]
            self._file.close()
            raise DataInUse(
                f"another daemon (process {pid}) works with {folder} since {since}, as `{command}`; "
                "stop it, or set data_dir"
            ) from error
        with contextlib.suppress(OSError):  # a full disk does not prevent the start
            self._file.truncate(0)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._file.write(f"{os.getpid()}\n{now}\n{shlex.join(sys.orig_argv)[:SHOWN_CHARS]}\n".encode())

    def release(self) -> None:
        """Let another daemon use the folder."""
        self._file.close()


def _open_plain(path: Path) -> BinaryIO:
    """Open the file, or make it. Raises ConfigError if it is a link or no plain file, whose target would be emptied."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = open(os.open(path, flags, 0o600), "a+b", buffering=0)  # noqa: PTH123, SIM115 (closed by `release`)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise ConfigError(NOT_PLAIN.format(path)) from error
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        file.close()
        raise ConfigError(NOT_PLAIN.format(path))
    return file
