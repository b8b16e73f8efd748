"""One daemon at a time works with a data folder."""

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
    """Another daemon works with this data folder."""


class DataLock:
    """Held by the one daemon that works with a data folder. The kernel releases it when the process ends, however.

    The file says who holds it: process id, since when, command. What a dead process has left in it is no lock.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (make_folder(folder) / LOCK_NAME).open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            pid, since, command = _holder(self._file.read().decode(errors="replace"))
            self._file.close()
            raise DataInUse(
                f"another daemon (process {pid}) works with {folder} since {since}, as `{command}`; "
                "stop it, or set data_dir"
            ) from error
        with contextlib.suppress(OSError):  # a disk that is full keeps nobody from starting
            self._file.truncate(0)
            self._file.write(_ourselves().encode())

    def release(self) -> None:
        """Another daemon may work with the folder."""
        self._file.close()


def _ourselves() -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{os.getpid()}\n{now}\n{shlex.join(sys.orig_argv)[:SHOWN_CHARS]}\n"


def _holder(written: str) -> list[str]:
    """Process id, since when, and command, as the lock file has them."""
    lines = written.splitlines()[:3]
    return [*lines, *["unknown"] * (3 - len(lines))]
