"""The daemon's backups: one a night, by the built-in schedule, and whenever somebody asks for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import ConfigError, LarsError
from lars_agent.models.library import InstalledModel
from service.alarms import Alarm
from service.backup.encryption import Lock
from service.backup.errors import BackupFailed, BackupRunning
from service.backup.folder import BackupFile, backups_in, device_of, discard, outdated
from service.backup.make import Made, make_backup
from service.backup.restore import model_in_use
from service.schedule.cron import next_run
from service.settings.load import Settings

log = structlog.get_logger(__name__)

RETRY = timedelta(hours=1)  # after a backup that failed: the disk may be there again
CLOSE_S = 2.0  # a backup that takes longer is broken off, and its temporary file goes with the next one


class Backups:
    """Makes backups into `backup.folder`, keeps as many as the settings say, and remembers what went wrong.

    When the next one is due follows from the newest that is there, so that a night without power, or without the disk,
    is made up. Raises ConfigError for a `backup.cron` that is no time table.
    """

    def __init__(
        self,
        settings: Settings,
        installed: Callable[[], InstalledModel | None],
        periodic: BackgroundScheduler,
        now: Callable[[], datetime],
        is_doubtful: Callable[[], bool] = lambda: False,
    ) -> None:
        require_schedule(settings, now())
        self._settings, self._installed, self._periodic = settings, installed, periodic
        self._now, self._is_doubtful = now, is_doubtful
        self._busy, self._closing = threading.Lock(), threading.Event()
        self._problem: str | None = None
        self._failed: datetime | None = None
        self._due: datetime | None = None  # as last read from the folder, whose disk may sleep
        self.last_success_s: float | None = None  # since the epoch, read as seldom; 0 for never, None for not known

    def use(self, settings: Settings) -> None:
        """Apply `settings` from now on; what failed is tried again at once."""
        if settings.backup != self._settings.backup:
            self._problem = self._failed = None
        self._settings, self._due = settings, None

    def start(self) -> None:
        """Look every minute whether a backup is due."""
        self._periodic.add_job(self.tick, "cron", minute="*", timezone=UTC, id="backup", misfire_grace_time=None)

    def close(self) -> None:
        """Break off a backup that is being made."""
        self._closing.set()
        if self._busy.acquire(timeout=CLOSE_S):
            self._busy.release()

    def tick(self) -> None:
        """Begin the backup that is due in a job of its own; while the clock is doubted none is."""
        if self._busy.locked() or self._is_doubtful():
            return
        now = self._now()
        if self._failed is not None and abs(now - self._failed) < RETRY:
            return
        if self._due is None or self._due <= now:
            self._due = self.next_run()
        if self._due is not None and self._due <= now:
            self._periodic.add_job(self.make_nightly, id="backup_now", replace_existing=True, misfire_grace_time=None)

    def make_nightly(self) -> None:
        """Make a backup; what fails is an alarm."""
        try:
            self.make()
        except BackupRunning as error:
            log.info("backup_waits", reason=str(error))
        except Exception as error:
            unexpected = not isinstance(error, LarsError | OSError)
            log.error("backup_failed", error=str(error), exc_info=unexpected)
            self._failed = self._now()
            self._problem = str(error) if not unexpected else f"unexpected {type(error).__name__}; the log says more"

    def make(self, folder: Path | None = None, recipients: tuple[str, ...] = ()) -> BackupFile:
        """Make a backup in the folder, by default that of the settings, where those that are not kept then go.

        Raises ConfigError without any folder, BackupFailed, BackupRunning, and what reading the state raises.
        """
        settings = self._settings
        if not self._busy.acquire(blocking=False):
            raise BackupRunning("a backup is being made already; try again when that is done")
        try:
            if folder is not None:
                made = self._write(settings, folder, recipients).file
            else:
                made = make_kept(settings, lambda own: self._write(settings, own, recipients))
                self._problem = self._failed = None
                self.last_success_s = made.created.timestamp()
        finally:
            self._busy.release()
        log.info("backup_made", file=str(made.path), bytes=made.bytes, encrypted=made.encrypted)
        return made

    def _write(self, settings: Settings, folder: Path, recipients: tuple[str, ...]) -> Made:
        lock = Lock(recipients or settings.backup.recipients)
        model = self._installed() or model_in_use(settings)
        return make_backup(settings, folder, lock, model, self._now, self._closing.is_set)

    def listed(self) -> list[BackupFile]:
        """Return this device's backups in the folder, the newest first. Raises BackupFailed if that is not there."""
        folder = self._settings.backup.folder
        return [] if folder is None else backups_in(Path(folder), device_of(self._settings.data_dir))

    def older_than(self, moment: datetime) -> int | None:
        """Return how many backups were made before, which may hold what was deleted then; None if nobody can tell."""
        try:
            return sum(one.created <= moment for one in self.listed())
        except BackupFailed:
            return None

    def next_run(self) -> datetime | None:
        """Return when the next backup is due, which may be past; None without a folder."""
        if self._settings.backup.folder is None:
            return None
        try:
            found = self.listed()
        except BackupFailed:
            found = []
        self.last_success_s = max((one.created.timestamp() for one in found), default=0.0)
        return due(self._settings, found, self._now())

    def problems(self) -> Iterator[Alarm]:
        """Yield the alarm of the last backup, until one succeeds."""
        if self._problem is not None:
            yield Alarm("backup_failed", f"the last backup failed: {self._problem}")


def make_kept(settings: Settings, write: Callable[[Path], Made]) -> BackupFile:
    """Make a backup in the settings' folder and, once it is checked, delete those that are not kept."""
    keep = settings.backup
    if keep.folder is None:
        raise ConfigError("backup.folder is not set; set it, or name a folder (lars-agent backup --to FOLDER)")
    made = write(Path(keep.folder))
    found = backups_in(Path(keep.folder), made.file.device)
    discard(outdated(found, made.file, keep.keep, made.erased if keep.prune_forgotten else None))
    return made.file


def due(settings: Settings, found: list[BackupFile], now: datetime) -> datetime:
    """Return when the next backup is due, after those that there are: at once after none.

    At `backup.cron`, or at the end of the nightly window. What bears a time to come was made with a wrong clock.
    """
    last = max((one.created for one in found if one.created <= now), default=None)
    if last is None:
        return now
    schedule = settings.schedule
    if settings.backup.cron is not None:
        return next_run(settings.backup.cron, schedule.timezone, last, "backup.cron")
    shift = timedelta(hours=schedule.window_hours)
    return next_run(schedule.cron, schedule.timezone, last - shift) + shift


def require_schedule(settings: Settings, now: datetime) -> None:
    """Raise ConfigError unless `backup.cron` is a time table."""
    if settings.backup.cron is not None:
        next_run(settings.backup.cron, settings.schedule.timezone, now, "backup.cron")
