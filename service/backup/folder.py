"""The folder that backups are kept in: their names, and the deletion of those that are not kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from lars_agent.errors import DiskFull
from lars_agent.files import raise_disk_full
from service.backup.errors import BackupFailed

MACHINE_ID = Path("/etc/machine-id")
TIME_FORMAT = "%Y%m%dT%H%M%S.%f"  # but for the last three digits: a name tells milliseconds
ENCRYPTED = ".age"
OF_UPDATES, UPDATES_KEPT = (
    "update-backups",
    3,
)  # folder in the state folder, which deploy/install.sh has backups made in
NAME = re.compile(
    r"lars-agent-([0-9a-f]{8})-([0-9]{8}T[0-9]{6}\.[0-9]{3})Z(?:-([1-9][0-9]{0,3}))?\.tar(\.age)?", re.ASCII
)
REASONS = {
    errno.ENOENT: "is not there; is its disk connected and mounted? The folder itself is never made",
    errno.ENOTDIR: "is no folder",
    errno.EROFS: "is on a disk that is mounted read-only, or that the service may not write to (ReadWritePaths=)",
    errno.EACCES: "cannot be written to by this user; change its owner, or make the backup as another user",
    errno.EPERM: "cannot be written to by this user; change its owner, or make the backup as another user",
    errno.EIO: "is on a disk that does not do as it is told; it may be failing",
}


@dataclass(frozen=True)
class BackupFile:
    """A backup in a folder; `device` is `device_of` the state that it was made of.

    Of those that were made in the same millisecond `number` tells which came first.
    """

    path: Path
    device: str
    created: datetime
    bytes: int
    encrypted: bool
    number: int = 1

    @property
    def age(self) -> tuple[datetime, int]:
        """What orders the backups of a device."""
        return self.created, self.number


def device_of(data_dir: Path) -> str:
    """Return eight digits for this machine and state folder, so that devices may share a folder for their backups."""
    machine = ""
    with contextlib.suppress(OSError):
        machine = MACHINE_ID.read_text(encoding="ascii", errors="replace").strip()
    text = f"lars-agent backup {machine} {data_dir.resolve()}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """Make a folder to work in; it goes at the end, and what a killed one left in it now."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def new_path(folder: Path, device: str, created: datetime, encrypted: bool) -> Path:
    """Return the path of a new backup: no file, encrypted or not, has its name."""
    stem = f"lars-agent-{device}-{created.astimezone(UTC).strftime(TIME_FORMAT)[:-3]}Z"
    for number in count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.tar"
        found = [path, path.with_name(path.name + ENCRYPTED)]
        if not any(map(os.path.lexists, found)):
            return found[encrypted]
    raise AssertionError("there is always another number")


def backups_in(folder: Path, device: str | None = None) -> list[BackupFile]:
    """Return the backups in the folder, of one device or of all, the newest first. Raises BackupFailed."""
    with disk_named(folder):
        found = [one for path in folder.iterdir() if (one := backup_at(path)) and device in (None, one.device)]
    return sorted(found, key=lambda one: one.age, reverse=True)


def backup_at(path: Path) -> BackupFile | None:
    """Return the backup that the path's name tells of; None if it has not the name of one, or is no plain file."""
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        created, found = datetime.strptime(match[2], TIME_FORMAT).replace(tzinfo=UTC), path.lstat()
    except (ValueError, FileNotFoundError):  # a month of 13; deleted meanwhile
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return BackupFile(path, match[1], created, found.st_size, bool(match[4]), int(match[3] or 1))


def outdated(found: Sequence[BackupFile], newest: BackupFile, keep: int, erased: datetime | None) -> list[BackupFile]:
    """Return those of a device's backups to delete once the `newest` is whole: past `keep`, or older than `erased`.

    What was made in the millisecond of the erasure counts as older. Those that bear a later time than
    the newest were made with a wrong clock, and go first.
    """
    by_age = sorted(found, key=lambda one: (one.age <= newest.age, one.age), reverse=True)
    others = [one for one in by_age if one.path != newest.path]
    return [
        one
        for number, one in enumerate(others, start=2)
        if number > keep or (erased is not None and one.created <= erased)
    ]


def outdated_of_updates(data_dir: Path, erased: datetime | None) -> list[BackupFile]:
    """Return the backups of updates to delete: older than `erased`, or than the `UPDATES_KEPT` newest ones."""
    folder = data_dir / OF_UPDATES
    found = backups_in(folder) if folder.is_dir() else []
    return [one for number, one in enumerate(found) if number >= UPDATES_KEPT or (erased and one.created <= erased)]


def discard(backups: Sequence[BackupFile]) -> None:
    """Delete backups. Raises BackupFailed that names the first that cannot be deleted."""
    for one in backups:
        try:
            one.path.unlink(missing_ok=True)
        except OSError as error:
            reason = f"{one.path} should be deleted and cannot be ({error.strerror}); delete it by hand"
            raise BackupFailed(f"the new backup is made, but the old {reason}") from error


@contextmanager
def disk_named(folder: Path) -> Iterator[None]:
    """Convert errors of the disk that the folder is on into errors that say what to do. Raises BackupFailed."""
    try:
        with raise_disk_full(folder):
            yield
    except DiskFull as error:
        advice = "free some space, or lower backup.keep and delete some by hand"
        raise BackupFailed(f"the disk of {folder} is full, so no backup was made; {advice}") from error
    except OSError as error:
        reason = REASONS.get(error.errno or 0, f"does not do as it is told ({error.strerror or error})")
        raise BackupFailed(f"the folder for backups {folder} {reason}") from error
