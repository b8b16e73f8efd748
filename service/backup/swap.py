"""Put a restored state in the place of the one in the state folder, so that one of the two is there, whole.

    <state folder>/.restore/      the restored state in the making; left by a killed restore, removed by the next
    <state folder>/.restored/     it is complete, and takes the place of what is there: the rename to it decides
    <state folder>/replaced/<time>/    the state before

Who dies after the rename leaves the rest to whoever comes next: `finish` goes on with it, and is called before anything
in the state folder is read. What a state does not consist of (base models, the clock, the measured costs of a training
step) stays where it is.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.files import fsync_folder, make_folder, publish_folder
from service.backup.errors import BackupRefused
from service.process.crash_loop import STARTS_NAME
from service.process.data_lock import DataLock
from service.settings.load import CHANGES_FILE, Settings, SettingsSource

MAKING, READY, REPLACED = ".restore", ".restored", "replaced"
NOTE = "replaces"  # in READY: the name of the folder for the state before
DATABASE = "lars-agent.db"
BESIDE = (f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", STARTS_NAME)  # go with the old database
PARTS = (CHANGES_FILE, "adapters", "jobs", DATABASE)  # which every restored state has, in the order of their going
TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"


def commit(data_dir: Path, replaced: datetime) -> Path | None:
    """Put the state in MAKING, which has all PARTS, in the place of the present one; return where that is now.

    Raises BackupRefused and OSError, and nothing has changed then; `replaced` is the time that the folder is named by.
    """
    making = data_dir / MAKING
    assert all((making / name).exists() for name in PARTS), "a restored state is whole"
    mounted = [name for name in PARTS if os.path.ismount(data_dir / name)]
    if mounted:
        where = data_dir / mounted[0]
        raise BackupRefused(f"{where} is a disk of its own, which cannot be put aside; unmount it, and restore again")
    has_state = any(os.path.lexists(data_dir / name) for name in PARTS)
    (making / NOTE).write_text(replaced.astimezone(UTC).strftime(TIME_FORMAT), encoding="ascii")
    publish_folder(making, data_dir / READY)
    finish(data_dir)
    return data_dir / REPLACED / replaced.astimezone(UTC).strftime(TIME_FORMAT) if has_state else None


def finish(data_dir: Path) -> bool:
    """Finish a restore that was interrupted; return whether there was one. Nobody else may use the state folder."""
    shutil.rmtree(data_dir / MAKING, ignore_errors=True)
    ready = data_dir / READY
    if not ready.is_dir():
        return False
    old = make_folder(data_dir / REPLACED / (ready / NOTE).read_text(encoding="ascii"))
    give_to_owner(data_dir, old.parent, old)
    for name in PARTS:
        if os.path.lexists(ready / name):  # else it has gone to its place before
            for one in (*(BESIDE if name == DATABASE else ()), name):
                if os.path.lexists(data_dir / one):
                    (data_dir / one).rename(old / one)
            for folder in (old, data_dir):
                fsync_folder(folder)
            (ready / name).rename(data_dir / name)
            fsync_folder(data_dir)
    if not any(old.iterdir()):  # there was none
        shutil.rmtree(old)
    ready.rename(data_dir / MAKING)  # without its note it would be no complete state
    fsync_folder(data_dir)
    shutil.rmtree(data_dir / MAKING, ignore_errors=True)
    return True


def give_to_owner(data_dir: Path, *paths: Path) -> None:
    """Give what root has made to the owner of the state folder, so that the service can read and delete it."""
    if os.geteuid() == 0:
        owner = data_dir.stat()
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def load_whole(source: SettingsSource) -> Settings:
    """Load the settings, of a state folder in which no restore is unfinished. Raises ConfigError, DataInUse."""
    settings = source.load()
    if (settings.data_dir / READY).is_dir():
        lock = DataLock(settings.data_dir)
        try:
            finish(settings.data_dir)
        finally:
            lock.release()
        settings = source.load()
    return settings


def replaced_states(data_dir: Path) -> list[tuple[datetime, Path]]:
    """Return the states that restores have put aside, oldest first, each with the time of that."""
    folder = data_dir / REPLACED
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append((datetime.strptime(path.name, TIME_FORMAT).replace(tzinfo=UTC), path))
        except ValueError:
            continue
    return sorted(found)
