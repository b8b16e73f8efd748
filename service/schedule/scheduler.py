"""When a profile's night comes, and that it comes once. What happens then is the supervisor's affair."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lars_agent.errors import LarsError, ModelLoading, NothingToLearn
from service.cycle.supervisor import JobRunning
from service.db import JobRecord, RunOutcome, ScheduledRun
from service.db.scheduled_runs import ScheduledRuns
from service.schedule.cron import missed_run, next_run
from service.schedule.idle_policy import IdleDecision, Window
from service.schedule.window import ScheduleWindow
from service.settings.load import Settings

log = structlog.get_logger(__name__)

EVERY_MINUTE = CronTrigger(minute="*", second=0, timezone=UTC)  # cron's moments are whole minutes
FIRST_LOOK_S = 5.0


class Adapting(Protocol):
    """What the schedule asks of `service.cycle.supervisor.Supervisor`."""

    def adapt(self, profile: str, trigger: Literal["schedule"]) -> JobRecord:
        """A job that has begun."""

    def recover(self) -> list[JobRecord]:
        """Jobs that were left unfinished go on."""


class NightlyScheduler:
    """Each profile is adapted once for each scheduled moment, as soon as `judge` finds a good moment for it.

    One question, "has a moment come since the last run?", is asked soon after the start and at the beginning of every
    minute; so a night missed by a daemon that was not running, a laptop that slept through it, or
    another profile whose job was still running, is made up once and in the same way. Within the window that opens with
    the moment it is a night; later it is made up, if at all, when the device has been left alone for long. What became
    of each moment, and why, is kept in `memory`.
    """

    def __init__(
        self,
        window: ScheduleWindow,
        supervisor: Adapting,
        memory: ScheduledRuns,
        profiles: Callable[[], Iterable[str]],
        judge: Callable[[Window], IdleDecision] = lambda window: IdleDecision(()),
    ) -> None:
        self._window, self._supervisor, self._memory = window, supervisor, memory
        self._profiles, self._judge = profiles, judge
        self._looking = threading.Lock()
        self._noted: dict[str, tuple[datetime, RunOutcome, tuple[str, ...]]] = {}  # the last waiting, by profile
        self._scheduler: BackgroundScheduler | None = None

    def use(self, settings: Settings) -> None:
        """Nights come by `settings` from now on. Raises ConfigError, and nothing has changed."""
        with self._looking:
            self._window.use(settings.schedule)

    def start(self, first_look_s: float = FIRST_LOOK_S) -> None:
        """Nights come from now on, whenever the schedule is enabled, and jobs that stopped half-way go on."""
        if self._scheduler is not None:
            return
        scheduler = BackgroundScheduler(job_defaults={"coalesce": True, "misfire_grace_time": None}, timezone=UTC)
        first_look = datetime.now(UTC) + timedelta(seconds=first_look_s)
        scheduler.add_job(self.look, EVERY_MINUTE, next_run_time=first_look)
        scheduler.start()
        self._scheduler = scheduler

    def close(self) -> None:
        """No night comes any more; one that has begun is the supervisor's."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
            self._scheduler = None

    def next_run(self) -> datetime | None:
        """The moment of the next night, None if the schedule is disabled."""
        settings = self._window.settings
        return next_run(settings.cron, settings.timezone, self._window.now()) if settings.enabled else None

    def look(self) -> None:
        """Every profile to which a night is owed is being adapted; those that must wait keep it owed."""
        with self._looking:
            self._supervisor.recover()  # what a full disk kept from being recorded
            if self._window.settings.enabled:
                for profile in self._profiles():
                    self._look_after(profile, self._window.now())

    def _look_after(self, profile: str, now: datetime) -> None:
        last_run = self._memory.last_run(profile)
        if last_run is None or last_run > now:  # seen for the first time, or noted by a clock that was wrong
            self._memory.note_run(profile, now)
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
        found = self._judge(window)
        if found.is_good:
            self._run(profile, moment, last_run, now)
        else:
            self._wait(profile, moment, now, window, found)

    def _wait(self, profile: str, moment: datetime, now: datetime, window: Window, found: IdleDecision) -> None:
        """The night stays owed, unless its window has passed for good; why is recorded when that changes."""
        outcome: RunOutcome = "waiting" if window == "open" else "missed"
        if window == "shut":
            self._memory.note_run(profile, now)
            self._window.owing.discard(profile)
        note = (moment, outcome, tuple(check.name for check in found.against))
        if self._noted.get(profile) != note:
            self._noted[profile] = note
            self._record(profile, moment, now, outcome, found.why)

    def _run(self, profile: str, moment: datetime, last_run: datetime, now: datetime) -> None:
        """Noted first: a night that takes the daemon down with it is not tried again at each start."""
        self._memory.note_run(profile, now)
        self._window.owing.discard(profile)
        try:
            job = self._supervisor.adapt(profile, "schedule")
        except (JobRunning, ModelLoading):
            self._memory.note_run(profile, last_run)
            self._window.owing.add(profile)
        except NothingToLearn as error:
            self._record(profile, moment, now, "skipped", str(error))
        except LarsError as error:
            self._record(profile, moment, now, "skipped", f"it could not begin: {error}")
            log.warning("night_failed", profile=profile, error=str(error))
        else:
            self._record(profile, moment, now, "ran", job.reason or "", job.id)

    def _record(
        self,
        profile: str,
        moment: datetime,
        now: datetime,
        outcome: RunOutcome,
        reason: str,
        job_id: str | None = None,
    ) -> None:
        self._memory.record(ScheduledRun(profile, moment, now, outcome, reason, job_id))
        late_s = int((now - moment).total_seconds())
        log.info("night", profile=profile, outcome=outcome, reason=reason, late_s=late_s, job=job_id)
