"""Applies the retention limits: a sweep soon after the start, and one a day."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.db.records import now_utc
from service.housekeeping.adapters import tidy_adapters
from service.housekeeping.free_pages import clear_free_pages
from service.housekeeping.jobs import forget, tidy_jobs, tidy_update_backups
from service.housekeeping.retention import Item, Limits, expired
from service.housekeeping.sweep import Closing, Report, Sweep
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings

log = structlog.get_logger(__name__)

FIRST_S = 60.0
RETRY_S, LONGEST_RETRY_S = 1.0, 600.0  # until pages are cleared that could not be; twice as long each time
CLOSE_S = 2.0  # a removal that takes longer may break off anywhere
BATCH_HOURS = 500


class Housekeeper:
    """Removes what `settings.retention` no longer keeps, one sweep at a time, as jobs of `periodic`."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        store: AdapterStore,
        switch: AdapterSwitch,
        periodic: BackgroundScheduler,
        now: Callable[[], datetime] = now_utc,
        is_idle: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings, self._db, self._store, self._switch = settings, db, store, switch
        self._periodic, self._now, self._is_idle = periodic, now, is_idle
        self._retry_s = RETRY_S
        self._sweeping = threading.Lock()
        self._closing, self._forget_due = threading.Event(), threading.Event()

    def use(self, settings: Settings) -> None:
        """Apply `settings` from the next sweep on."""
        self._settings = settings

    def start(self, first_s: float = FIRST_S) -> None:
        """Schedule `tidy` in `first_s` and once a day."""
        first = datetime.now(UTC) + timedelta(seconds=first_s)
        self._periodic.add_job(self.tidy, "interval", days=1, next_run_time=first, misfire_grace_time=None)

    def close(self) -> None:
        """Stop; a sweep that runs ends before its next removal."""
        self._closing.set()
        if self._sweeping.acquire(timeout=CLOSE_S):
            self._sweeping.release()

    def tidy(self) -> Report:
        """Apply every limit and return what was removed; the log has what failed."""
        # a full disk: the steps that write come last
        tidy_rows = (_tidy_interactions, _tidy_scheduled_runs, _tidy_imports, _tidy_files)
        return self._sweep(tidy_jobs, tidy_update_backups, tidy_adapters, *tidy_rows, clear_free_pages)

    def forget(self) -> Report:
        """Remove what is left of deleted feedback; free pages that cannot be cleared now are tried again later.

        What waits for a job to end is done by the call that comes then.
        """
        report = self._sweep(forget, clear_free_pages)
        if self._db.erasures.pending("free_pages") and not self._closing.is_set():
            again = datetime.now(UTC) + timedelta(seconds=self._retry_s)
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)
            self._periodic.add_job(
                self.forget, "date", run_date=again, id="forget_again", replace_existing=True, misfire_grace_time=None
            )
        else:
            self._retry_s = RETRY_S
        return report

    def forget_soon(self) -> None:
        """Schedule `forget` for now, or for the start of `periodic`; until it begins, further calls change nothing."""
        if not self._forget_due.is_set():
            self._forget_due.set()
            self._periodic.add_job(self.forget, misfire_grace_time=None)

    def _sweep(self, *steps: Callable[[Sweep], None]) -> Report:
        with self._sweeping:
            self._forget_due.clear()
            now, closing = self._now(), self._closing
            sweep = Sweep(self._settings, self._db, self._store, self._switch, now, closing, self._is_idle)
            try:
                for step in steps:
                    step(sweep)
            except Closing:
                pass
        log.info("housekeeping", **asdict(sweep.report))
        return sweep.report


def _tidy_interactions(sweep: Sweep) -> None:
    """Remove old interactions; feedback on them has its own copy."""
    keep = sweep.settings.retention
    with sweep.step("interactions"):
        items = [Item(hour.name, hour.latest, hour.bytes) for hour in sweep.db.interactions.hours()]
        sizes = {item.id: item.bytes for item in items}
        gone = expired(items, Limits(keep.interaction_days, keep.interaction_bytes), sweep.now)
        for start in range(0, len(gone), BATCH_HOURS):
            batch = gone[start : start + BATCH_HOURS]
            while deleted := sweep.db.interactions.delete_hours(batch):
                sweep.report.interactions += deleted
                if sweep.closing.is_set():
                    raise Closing
            sweep.report.freed_bytes += sum(sizes[name] for name in batch)


def _tidy_scheduled_runs(sweep: Sweep) -> None:
    """Remove the records of scheduled runs that are older than job records may be."""
    if days := sweep.settings.retention.job_days:
        with sweep.step("scheduled_runs"):
            sweep.report.scheduled_runs += sweep.db.scheduled_runs.delete_before(sweep.now - timedelta(days=days))


def _tidy_imports(sweep: Sweep) -> None:
    """Remove what an interrupted import has left."""
    with sweep.step("imports"):
        sweep.db.imports.remove_unfinished()


def _tidy_files(sweep: Sweep) -> None:
    """Remove uploaded files that no profile has taken up in their time."""
    with sweep.step("files"):
        sweep.report.files += sweep.db.files.remove_unused(sweep.now)
