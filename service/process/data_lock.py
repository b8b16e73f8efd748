"""The lock that lets one daemon at a time use a data folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.errors import LarsError
from lars_agent.files import make_folder

LOCK_NAME = "daemon.lock"
SHOWN_CHARS = 200  # of the holder's command


class DataInUse(LarsError):
    """Another daemon uses this data folder."""


class DataLock:
    """An flock on a file of the data folder; the kernel releases it when the process ends. Raises DataInUse.

    The file holds the process id, start and command of the last holder, for the error message only.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (make_folder(folder) / LOCK_NAME).open("a+b", buffering=0)
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
