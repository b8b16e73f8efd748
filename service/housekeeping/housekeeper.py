"""Keeps what the daemon gathers within its limits: a round soon after the start, and one a day."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta

import structlog

from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.db.records import now_utc
from service.housekeeping.adapters import tidy_adapters
from service.housekeeping.jobs import forget, tidy_jobs
from service.housekeeping.retention import Item, Limits, expired
from service.housekeeping.sweep import Closing, Report, Round
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings

log = structlog.get_logger(__name__)

FIRST_S, EVERY_S = 60.0, 24 * 3600.0
CLOSE_S = 2.0  # what is being removed then goes on until the process ends, and may break off anywhere
BATCH_HOURS = 500


class Housekeeper:
    """Removes what `settings.retention` no longer keeps, in a thread of its own, one round at a time."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        store: AdapterStore,
        switch: AdapterSwitch,
        now: Callable[[], datetime] = now_utc,
    ) -> None:
        self._settings, self._db, self._store = settings, db, store
        self._switch, self._now = switch, now
        self._working = threading.Lock()
        self._closing, self._woken = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def use(self, settings: Settings) -> None:
        """The next round is by `settings`."""
        self._settings = settings

    def start(self, first_s: float = FIRST_S) -> None:
        """Rounds come from now on, the first after `first_s`."""
        self._thread = threading.Thread(target=self._run, args=(first_s,), name="housekeeping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No round comes any more; one that has begun ends before its next removal."""
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def tidy(self) -> Report:
        """Everything keeps to its limits, or the log says what does not; what was done."""
        return self._round(
            tidy_jobs, tidy_adapters, _tidy_interactions, _tidy_scheduled_runs
        )  # a full disk: what writes comes last

    def forget(self) -> Report:
        """What was learned from feedback that is deleted is in no directory of a job that has ended."""
        return self._round(forget)

    def forget_soon(self) -> None:
        """`forget` is done in a moment, by the thread; before it is started, once it is."""
        self._woken.set()

    def _round(self, *steps: Callable[[Round], None]) -> Report:
        with self._working:
            work = Round(self._settings, self._db, self._store, self._switch, self._now(), self._closing)
            try:
                for step in steps:
                    step(work)
            except Closing:
                pass
        log.info("housekeeping", **asdict(work.report))
        return work.report

    def _run(self, first_s: float) -> None:
        due = time.monotonic() + first_s
        while True:
            self._woken.wait(max(0.0, due - time.monotonic()))
            self._woken.clear()
            if self._closing.is_set():
                return
            if time.monotonic() < due:
                self.forget()
            else:
                due = time.monotonic() + EVERY_S
                self.tidy()


def _tidy_interactions(work: Round) -> None:
    """Prompts and replies keep to their limits; feedback on them has its own copy."""
    keep = work.settings.retention
    with work.going_on("interactions"):
        items = [Item(hour.name, hour.latest, hour.bytes) for hour in work.db.interactions.hours()]
        sizes = {item.id: item.bytes for item in items}
        gone = expired(items, Limits(keep.interaction_days, keep.interaction_bytes), work.now)
        for start in range(0, len(gone), BATCH_HOURS):
            batch = gone[start : start + BATCH_HOURS]
            while deleted := work.db.interactions.delete_hours(batch):
                work.report.interactions += deleted
                if work.closing.is_set():
                    raise Closing
            work.report.freed_bytes += sum(sizes[name] for name in batch)


def _tidy_scheduled_runs(work: Round) -> None:
    """Delete the records of scheduled runs that are as old as job records may become."""
    if days := work.settings.retention.job_days:
        with work.going_on("scheduled_runs"):
            work.report.scheduled_runs += work.db.scheduled_runs.delete_before(work.now - timedelta(days=days))
