"""Make a backup: copy the state as it is at one moment, write it to one file, and check what the disk has of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lars_agent.errors import AdapterError
from lars_agent.files import fsync_folder, read_plain, sha256_of
from lars_agent.models.library import InstalledModel
from lars_agent.records import parse_json, to_json
from lars_agent.store.adapters import ADAPTER_FILES, AdapterStore
from lars_agent.store.adapters import MANIFEST as ADAPTER_MANIFEST
from lars_agent.store.names import BASE
from service.backup.archive import CHUNK, Archive, Member, MemberGone, archive
from service.backup.encryption import Lock
from service.backup.errors import BackupFailed, BackupRunning
from service.backup.folder import BackupFile, backup_at, backups_in, device_of, disk_named, new_path, working_folder
from service.backup.manifest import ADAPTERS, DATABASE, SETTINGS, BackupManifest, BaseModel, MemberSum
from service.db.migrate import revision
from service.db.snapshot import last_erasure, snapshot
from service.process.version import package_version
from service.settings.load import CHANGES_FILE, Settings

SCRATCH = ".backup"  # in the state folder: no text leaves its disk but in the backup itself, encrypted or not
ATTEMPTS = 5
NEVER_KEPT = ("server", "data_dir")  # sections of the settings: the token, and what belongs to a device
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of some filesystems in user space


@dataclass(frozen=True)
class Made:
    """A backup that was made, and the time of the last erasure before it."""

    file: BackupFile
    erased: datetime | None


def make_backup(
    settings: Settings,
    folder: Path,
    lock: Lock,
    model: InstalledModel | None,
    now: Callable[[], datetime],
    is_closing: Callable[[], bool] = lambda: False,
) -> Made:
    """Make a backup in the folder, which must exist, while a daemon may serve; return it once it is checked.

    What is erased meanwhile is not in it. Raises BackupFailed, BackupRunning, and what reading the state raises.
    """
    if not settings.database_path.is_file():
        raise BackupFailed(f"there is nothing to back up in {settings.data_dir}; does the daemon use another data_dir?")
    device = device_of(settings.data_dir)
    with state_held(settings.data_dir), working_folder(settings.data_dir / SCRATCH) as scratch:
        backups_in(folder)  # says so if it is not there
        _sweep(folder, device)
        for _ in range(ATTEMPTS):
            before, created = last_erasure(settings.database_path), now()
            path = new_path(folder, device, created, not lock.is_open)
            with contextlib.suppress(MemberGone):
                manifest, members = _collect(settings, scratch, model, created)
                sizes = [(member, manifest.files[member.name].bytes) for member in members]
                chunks = _unless(is_closing, archive(to_json(manifest), sizes))
                if not _write(path, chunks, lock, partial(_nothing_erased, settings.database_path, before)):
                    continue  # it may hold what was forgotten while it was made
                file = backup_at(path)
                assert file is not None, "a backup that was made is found"
                return Made(file, None if before[1] is None else datetime.fromisoformat(before[1]))
    raise BackupFailed("no backup was made: versions or feedback were deleted meanwhile, each time; try again later")


def _nothing_erased(database: Path, since: tuple[int, str | None]) -> bool:
    return last_erasure(database) == since


def _collect(
    settings: Settings, scratch: Path, model: InstalledModel | None, created: datetime
) -> tuple[BackupManifest, list[Member]]:
    """Return the manifest of the state at this moment, and the files; of the adapters, each before the database."""
    adapters = list(_adapters(AdapterStore(settings.adapters_dir), settings.adapters_dir))
    copy = scratch / DATABASE
    copy.unlink(missing_ok=True)
    snapshot(settings.database_path, copy)
    members = [Member(SETTINGS, _settings(settings.data_dir)), Member(DATABASE, copy), *adapters]
    base = None if model is None else BaseModel(model.name, model.reference, model.revision, model.sha256)
    return BackupManifest(
        version=package_version(),
        schema=revision(copy) or "",
        created=created.astimezone(UTC).isoformat(timespec="seconds"),
        base_model=base,
        files={member.name: _sum_of(member) for member in members},
    ), members


def _adapters(store: AdapterStore, root: Path) -> Iterator[Member]:
    """Yield the files of every profile's version in use and of its ancestors, its pointer and its counter.

    Versions that are damaged are left out, and the pointer goes to the nearest one that is not.
    """
    for profile in store.profiles():
        sound = list(_sound_line(store, profile))
        for version in sound:
            folder = store.folder(profile, version)
            for name in (*ADAPTER_FILES, ADAPTER_MANIFEST):
                yield Member(f"{ADAPTERS}/{profile}/{folder.name}/{name}", folder / name)
        yield Member(f"{ADAPTERS}/{profile}/active", f"{sound[0] if sound else BASE}\n".encode())
        if (counter := root / profile / "last").is_file():
            yield Member(f"{ADAPTERS}/{profile}/last", read_plain(counter, follow=False))


def _sound_line(store: AdapterStore, profile: str) -> Iterator[int]:
    """Yield the version in use and its ancestors, without those that are damaged."""
    with contextlib.suppress(AdapterError):
        for version in store.lineage(profile):
            with contextlib.suppress(AdapterError):
                store.verify(profile, version, None)
                yield version


def _settings(data_dir: Path) -> bytes:
    """Return what was changed over the API, without what never leaves the device."""
    try:
        changes = parse_json(read_plain(data_dir / CHANGES_FILE))
    except (OSError, ValueError):  # none, or none that holds
        return b"{}\n"
    kept = {name: values for name, values in changes.items() if name not in NEVER_KEPT}
    return (json.dumps(kept, indent=1) + "\n").encode()


def _sum_of(member: Member) -> MemberSum:
    digest, size = hashlib.sha256(), 0
    for chunk in member.chunks():
        digest.update(chunk)
        size += len(chunk)
    return MemberSum(size, digest.hexdigest())


def _write(path: Path, chunks: Iterator[bytes], lock: Lock, is_valid: Callable[[], bool]) -> bool:
    """Write a backup under a temporary name, check what the disk has of it, and name it; return False if not valid.

    Raises BackupFailed; nothing is left then.
    """
    temp = path.with_name(f".{path.name}.tmp")
    with disk_named(path.parent):
        try:
            with open(os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:  # noqa: PTH123
                target = _Hashing(file)
                lock.write(chunks, target)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what comes back is the disk's
                _give_to_owner(file.fileno(), path.parent)
            _check(temp, target.digest.hexdigest(), lock)
            if not is_valid():
                return False
            temp.rename(path)
        finally:
            temp.unlink(missing_ok=True)
        try:
            fsync_folder(path.parent)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise
    return True


def _check(path: Path, sha256: str, lock: Lock) -> None:
    """Read a written backup back. Raises BackupFailed."""
    if sha256_of(path) != sha256:
        raise BackupFailed(f"the disk of {path.parent} gives back other bytes than it was given; it may be failing")
    if lock.is_open:
        with path.open("rb") as file:
            Archive(file, path.name).check()


def _sweep(folder: Path, device: str) -> None:
    """Delete what a backup of this device left that was killed; `state_held` tells that none is being made."""
    with disk_named(folder):
        for leftover in folder.glob(f".lars-agent-{device}-*.tmp"):
            leftover.unlink(missing_ok=True)


def _give_to_owner(descriptor: int, folder: Path) -> None:
    """Give a file that root has made to the folder's owner, who else could neither read nor delete it."""
    if os.geteuid() == 0:
        owner = folder.stat()
        with contextlib.suppress(OSError):  # a disk that knows no owners
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def state_held(data_dir: Path) -> Iterator[None]:
    """Keep others from making a backup of the state, or restoring it, within the block. Raises BackupRunning."""
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"a backup of {data_dir} is being made, or one is restored; try again when that is done"
            raise BackupRunning(message) from error
        yield
    finally:
        os.close(descriptor)


def clear_scratch(data_dir: Path) -> None:
    """Delete what a killed backup left in the state folder, unless one is being made."""
    with contextlib.suppress(BackupRunning, OSError), state_held(data_dir):
        shutil.rmtree(data_dir / SCRATCH, ignore_errors=True)


def _unless(is_closing: Callable[[], bool], chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if is_closing():
            raise BackupFailed("the daemon is closing; the backup is made after its next start")
        yield chunk


class _Hashing:
    """A file that is written to, and the sha256 of that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write to the file."""
        self.digest.update(data)
        for start in range(0, len(data), CHUNK):
            self._file.write(data[start : start + CHUNK])
        return len(data)

    def writelines(self, chunks: Iterator[bytes]) -> None:
        """Write all chunks."""
        for chunk in chunks:
            self.write(chunk)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()
