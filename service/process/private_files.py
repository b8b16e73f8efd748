"""Permissions of the state folder: nobody but its owner may look into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

FOLDER_MODE, FILE_MODE = 0o700, 0o600
# What the daemon keeps in its state folder; what else is there is not its to change.
OWN_NAMES = (
    "adapters",
    "elsewhere",
    "jobs",
    "models",
    "replaced",
    "update-backups",
    "daemon.lock",
    "lars-agent.db*",
    "token",
    "*.json",
    ".*.tmp",
)


def wider_than_private(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the state folder and all that the daemon keeps in it which others may read, write or enter, with its mode.

    Links are not followed, and what cannot be looked at is left out.
    """
    yield from _if_wider(folder, follow=True)
    for path in sorted(one for name in OWN_NAMES for one in folder.glob(name)):
        yield from _if_wider(path)
        for parent, folders, files in os.walk(path) if not path.is_symlink() else ():  # nothing, for a file
            for name in (*folders, *files):
                yield from _if_wider(Path(parent, name))


def make_private(folder: Path) -> None:
    """Take the rights of others from the state folder and from what the daemon keeps in it; log what cannot be changed.

    A folder that everybody may write to, such as /tmp, stays as it is.
    """
    refused = list[Path]()
    for path, mode in wider_than_private(folder):
        try:
            if mode & stat.S_ISVTX:
                raise PermissionError
            path.chmod(FOLDER_MODE if stat.S_ISDIR(mode) else FILE_MODE)
        except OSError:  # somebody else's, or on a disk that knows no owners
            refused.append(path)
    if refused:
        log.warning("others_may_read", count=len(refused), first=str(refused[0]))


def _if_wider(path: Path, *, follow: bool = False) -> Iterator[tuple[Path, int]]:
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
    except OSError:
        return
    if mode & 0o077 and (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        yield path, mode
