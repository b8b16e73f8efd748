"""Scheduled runs: when each profile is due, and that it runs once. The supervisor does the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import LarsError, ModelLoading, NothingToLearn
from service.cycle.supervisor import JobRunning, Supervisor
from service.db.records import RunOutcome, ScheduledRun
from service.db.scheduled_runs import ScheduledRuns
from service.schedule.cron import ScheduleWindow, missed_run, next_run
from service.schedule.idle_policy import IdleDecision, Window
from service.settings.load import Settings

log = structlog.get_logger(__name__)

FIRST_TICK_S = 5.0


class NightlyScheduler:
    """Adapts each profile once for each scheduled time, as soon as `decide` allows it.

    `tick` checks soon after the start and at every full minute whether a scheduled time has passed since the last run.
    A time that was missed (the daemon was stopped, the device slept, another profile's job was running) is thereby made
    up once. Within the window that opens at the scheduled time the run starts as soon as the device is idle; later, if
    at all, after it has been idle for long. The outcome of each scheduled time is kept in `runs`.
    Nothing starts and nothing is noted while the clock `is_behind` the last time known: a night would come again.
    """

    def __init__(
        self,
        window: ScheduleWindow,
        supervisor: Supervisor,
        runs: ScheduledRuns,
        profiles: Callable[[], Iterable[str]],
        decide: Callable[[Window], IdleDecision],
        periodic: BackgroundScheduler,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._window, self._supervisor, self._runs = window, supervisor, runs
        self._profiles, self._decide, self._periodic, self._is_behind = profiles, decide, periodic, is_behind
        self._ticking = threading.Lock()
        self._noted: dict[str, tuple[datetime, RunOutcome, tuple[str, ...]]] = {}  # the last waiting, by profile

    def use(self, settings: Settings) -> None:
        """Apply `settings` from now on. Raises ConfigError, and nothing has changed."""
        with self._ticking:
            self._window.use(settings.schedule)

    def start(self, first_tick_s: float = FIRST_TICK_S) -> None:
        """Schedule `tick` in `first_tick_s` and at every full minute, which is what cron counts in."""
        self._periodic.add_job(
            self.tick,
            "cron",
            minute="*",
            timezone=UTC,
            id="schedule",
            replace_existing=True,
            next_run_time=datetime.now(UTC) + timedelta(seconds=first_tick_s),
            misfire_grace_time=None,
        )

    def next_run(self) -> datetime | None:
        """Return the next scheduled time, or None if the schedule is disabled."""
        settings = self._window.settings
        return next_run(settings.cron, settings.timezone, self._window.now()) if settings.enabled else None

    def tick(self) -> None:
        """Recover unfinished jobs and start the runs that are due; those that must wait stay due."""
        with self._ticking:
            self._supervisor.recover()  # jobs whose start could not be recorded while the disk was full
            if self._window.settings.enabled and not self._is_behind():
                for profile in self._profiles():
                    self._check(profile, self._window.now())

    def _check(self, profile: str, now: datetime) -> None:
        last_run = self._runs.last_run(profile)
        if last_run is None or last_run > now:  # a new profile, or recorded while the clock was wrong
            self._runs.note_run(profile, now)
            return
        settings = self._window.settings
        moment = missed_run(settings.cron, settings.timezone, last_run, now)
        self._window.owing.discard(profile)
        if moment is None:
            return
        self._window.owing.add(profile)
        window = self._window.state(begun=False)
        if window == "open":
            moment = max(moment, self._window.opened(now) or moment)
        decision = self._decide(window)
        if decision.is_good:
            self._run(profile, moment, last_run, now)
        else:
            self._wait(profile, moment, now, window, decision)

    def _wait(self, profile: str, moment: datetime, now: datetime, window: Window, decision: IdleDecision) -> None:
        """Leave the run due, or drop it if its window has passed for good; record the reason when it changes."""
        outcome: RunOutcome = "waiting" if window == "open" else "missed"
        if window == "shut":
            self._runs.note_run(profile, now)
            self._window.owing.discard(profile)
        note = (moment, outcome, tuple(check.name for check in decision.against))
        if self._noted.get(profile) != note:
            self._noted[profile] = note
            self._record(ScheduledRun(profile, moment, now, outcome, decision.why))

    def _run(self, profile: str, moment: datetime, last_run: datetime, now: datetime) -> None:
        """Start the run; it is noted first, so that one that crashes the daemon is not repeated at each start."""
        self._runs.note_run(profile, now)
        self._window.owing.discard(profile)
        try:
            job = self._supervisor.adapt(profile, "schedule")
        except (JobRunning, ModelLoading):
            self._runs.note_run(profile, last_run)
            self._window.owing.add(profile)
        except NothingToLearn as error:
            self._record(ScheduledRun(profile, moment, now, "skipped", str(error)))
        except LarsError as error:
            self._record(ScheduledRun(profile, moment, now, "skipped", f"it could not start: {error}"))
            log.warning("scheduled_run_failed", profile=profile, error=str(error))
        else:
            self._record(ScheduledRun(profile, moment, now, "ran", job.reason or "", job.id))

    def _record(self, run: ScheduledRun) -> None:
        self._runs.record(run)
        late_s = int((run.decided - run.scheduled).total_seconds())
        log.info("scheduled_run", **asdict(run), late_s=late_s)


def bring_forward(periodic: BackgroundScheduler, by: timedelta) -> None:
    """Bring all jobs forward by as much as the clock was set back; they would wait until it has caught up."""
    for job in periodic.get_jobs():
        if job.next_run_time is not None:
            job.modify(next_run_time=job.next_run_time - by)
