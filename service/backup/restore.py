"""Restore a backup: check it, make a state of it, forget in that what was forgotten since, put it in place."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lars_agent.errors import ConfigError, LarsError, ModelError
from lars_agent.files import make_folder, raise_disk_full
from lars_agent.models.library import InstalledModel, ModelLibrary
from lars_agent.records import parse_json
from lars_agent.store.adapters import AdapterStore
from service.backup.archive import Archive
from service.backup.encryption import Key, opened
from service.backup.errors import BackupDamaged, BackupRefused
from service.backup.folder import working_folder
from service.backup.forgetting import forget_again
from service.backup.make import NEVER_KEPT, state_held
from service.backup.manifest import ADAPTERS, DATABASE, SETTINGS, BackupManifest
from service.backup.swap import MAKING, commit, finish, give_to_owner
from service.db import Database
from service.db.erased import Erased, read_erased
from service.db.errors import DatabaseUnusable
from service.db.migrate import known_revisions
from service.process.clock import CLOCK_NAME, Clock
from service.process.data_lock import LOCK_NAME, DataInUse, DataLock
from service.process.version import package_version
from service.settings.load import Settings, SettingsSource, settings_of, write_changes

DEFAULT_MODEL = "default"
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
RESTORED = "the state was restored from a backup; the job did not go with it"


@dataclass(frozen=True)
class Restored:
    """What was restored.

    Attributes:
        replaced: the folder of the state before; None if there was none.
        forgotten: pieces of feedback in the backup that had been deleted since it was made, and are again.
        versions: adapter versions, by profile, that had learned from them.
        missing_model: the reference of the base model, where it has yet to be fetched.
    """

    manifest: BackupManifest
    replaced: Path | None
    forgotten: int
    versions: dict[str, list[int]]
    missing_model: str | None


def check_backup(path: Path, source: SettingsSource, key: Key) -> BackupManifest:
    """Read all of a backup, and check that it could be restored here; change nothing. Raises as `restore` does."""
    settings = source.load()
    scratch = settings.data_dir if os.access(settings.data_dir, os.W_OK | os.X_OK) else None
    with _named(path), opened(path, key, scratch) as file:
        found = Archive(file, path.name)
        _require_known(found.manifest)
        changes = b"{}"
        for name, content in found.members():
            if name == SETTINGS:
                changes = b"".join(content)
            for _ in content:
                pass
    _require_model(found.manifest, _settings_with(source, _changes(changes)))
    return found.manifest


def restore(path: Path, source: SettingsSource, key: Key, ignore_erasures: bool = False) -> Restored:
    """Put the state in the backup in the place of the present one, if no daemon runs; return what was done.

    What was deleted since the backup was made is deleted from it too; a state whose erasures cannot be read is not
    replaced unless they are ignored. Raises DataInUse, BackupDamaged, BackupLocked, BackupRefused, DatabaseTooNew,
    DiskFull; the present state then stays as it is.
    """
    data_dir = make_folder(source.load().data_dir)
    try:
        lock = DataLock(data_dir)
    except DataInUse as error:
        advice = "stop it first: sudo systemctl stop lars-agent, or Ctrl-C where it runs"
        raise BackupRefused(f"a daemon uses {data_dir}, and nothing is restored under it; {advice}") from error
    try:
        with state_held(data_dir):
            finish(data_dir)
            settings = source.load()
            erased = _erased(settings, ignore_erasures)
            with _named(path), working_folder(data_dir / MAKING) as making:
                manifest = _unpack(path, key, data_dir, making)
                changes = _changes((making / SETTINGS).read_bytes() if SETTINGS in manifest.files else b"{}")
                write_changes(making, changes)
                missing = _require_model(manifest, _settings_with(source, changes))
                clock = Clock(data_dir / CLOCK_NAME)
                forgotten, versions = _renew(making, AdapterStore(settings.adapters_dir), erased, clock)
                give_to_owner(data_dir, data_dir / LOCK_NAME, making, *making.rglob("*"))
                replaced = commit(data_dir, _moment(erased, clock.now()))
            return Restored(manifest, replaced, forgotten, versions, missing)
    finally:
        lock.release()


def _unpack(path: Path, key: Key, data_dir: Path, making: Path) -> BackupManifest:
    """Write the members to `making`."""
    with opened(path, key, data_dir) as file:
        found = Archive(file, path.name)
        _require_known(found.manifest)
        for name, content in found.members():
            target = making / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with raise_disk_full(target), open(os.open(target, NEW_FILE, 0o600), "wb") as written:  # noqa: PTH123
                written.writelines(content)
        return found.manifest


def _renew(making: Path, present: AdapterStore, erased: Erased, clock: Clock) -> tuple[int, dict[str, list[int]]]:
    """Bring an unpacked state up to this lars-agent and to what was deleted since; return what went from it."""
    for name in (ADAPTERS, "jobs"):
        (making / name).mkdir(mode=0o700, exist_ok=True)
    try:
        db, store = Database(making / DATABASE, clock.now), AdapterStore(making / ADAPTERS)
    except DatabaseUnusable as error:
        raise BackupDamaged(f"the backup holds a database that cannot be used ({error})") from error
    try:
        for profile in store.profiles():
            if problems := store.problems(profile):
                raise BackupDamaged(f"the backup holds an adapter that cannot be used: {next(iter(problems.values()))}")
        for job in db.jobs.unfinished():
            db.jobs.update(job.id, status="cancelled", error=RESTORED, finished=clock.now())
        forgotten, versions = forget_again(db, store, erased)
        store.count_on(present)
        db.compact()
        db.empty_log()
    finally:
        db.close()
    return forgotten, versions


def _erased(settings: Settings, ignore: bool) -> Erased:
    """Return what the present state knows to be deleted. Raises BackupRefused where it cannot be read."""
    if ignore or not settings.database_path.exists():
        return Erased()
    try:
        return read_erased(settings.database_path)
    except LarsError as error:
        message = f"what was forgotten since the backup was made cannot be told ({error}), and would come back"
        raise BackupRefused(f"{message}; with --ignore-erasures it is restored all the same") from error


def _require_known(manifest: BackupManifest) -> None:
    """Raise BackupRefused if a newer lars-agent made the backup."""
    own = package_version()
    if _release(manifest.version) > _release(own) > ():
        found = f"the backup was made by lars-agent {manifest.version}, this is {own}"
        raise BackupRefused(f"{found}; upgrade lars-agent, then restore it")
    if manifest.schema not in known_revisions():
        found = f"the backup's database has schema {manifest.schema!r:.40}"
        raise BackupRefused(f"{found}, which this lars-agent does not know; upgrade it, then restore")


def _require_model(manifest: BackupManifest, settings: Settings) -> str | None:
    """Return the reference of the backup's base model if it is not installed, None if it is the one in use.

    Raises BackupRefused if another one is in use under the `settings`.
    """
    wanted, used = manifest.base_model, model_in_use(settings)
    if wanted is None:
        return None
    if used is None:
        return wanted.reference
    if used.sha256 != wanted.sha256:
        found = f"the backup's adapters were trained for {wanted.name} (weights sha256 {wanted.sha256[:12]})"
        todo = f"lars-agent model pull {wanted.reference}, lars-agent model use {wanted.name}, then restore again"
        raise BackupRefused(f"{found}, and the base model here is {used.name} ({used.sha256[:12]}); {todo}")
    return None


def model_in_use(settings: Settings) -> InstalledModel | None:
    """Return the base model that the daemon serves after its next start; None if that is not installed yet."""
    library = ModelLibrary(settings.models_dir)
    with contextlib.suppress(ModelError, OSError):
        chosen = library.current() if settings.model.name == DEFAULT_MODEL else None
        return chosen or library.get(settings.model.name)
    return None


def _changes(text: bytes) -> dict[str, dict[str, object]]:
    """Return the changed settings of a backup, without what belongs to a device. Raises BackupDamaged."""
    try:
        values = parse_json(text)
        return {name: dict(section) for name, section in values.items() if name not in NEVER_KEPT}
    except (ValueError, TypeError, AttributeError) as error:
        raise BackupDamaged(f"the settings in the backup cannot be read ({error}); use another one") from error


def _settings_with(source: SettingsSource, changes: dict[str, dict[str, object]]) -> Settings:
    """Return the settings that hold after the restore. Raises BackupRefused."""
    try:
        return settings_of(source.layers(changes))
    except ConfigError as error:
        advice = "change that in the configuration file, or restore with the lars-agent that made the backup"
        raise BackupRefused(f"with the backup's settings the daemon would not start: {error}; {advice}") from error


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version; none for a version that has none."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _moment(erased: Erased, now: datetime) -> datetime:
    """Return the time by which the replaced state is named: `now`, but later than what was deleted from it."""
    latest = max((str(row["created"]) for row in erased.records), default="")
    known = datetime.fromisoformat(latest) + timedelta(milliseconds=1) if latest else datetime.min.replace(tzinfo=UTC)
    return max(now, known)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Convert the errors of a file that is not there, or is none."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BackupRefused(f"the backup {path} cannot be read: {error.strerror}") from error
