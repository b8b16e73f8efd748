"""When a profile's night comes, and that it comes once. What happens then is the supervisor's affair."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lars_agent.errors import LarsError, ModelLoading, NothingToLearn
from service.cron import missed_run, next_run, parse_cron, parse_zone
from service.db.cycles import Cycles
from service.jobs import JobRunning, Supervisor
from service.settings import Schedule

log = structlog.get_logger(__name__)

EVERY_MINUTE = CronTrigger(minute="*", second=0, timezone=UTC)  # cron's moments are whole minutes
FIRST_LOOK_S = 5.0


class Nightly:
    """Each profile is adapted once for each scheduled moment, late if the device was off or asleep when it came.

    One question, "has a moment come since the last run?", is asked soon after the start and at the beginning of every
    minute; so a night missed by a daemon that was not running, a laptop that slept through it, or
    another profile whose job was still running, is made up once and in the same way.

    Raises ConfigError for a cron expression or a time zone that cannot be, enabled or not.
    """

    def __init__(
        self,
        settings: Schedule,
        supervisor: Supervisor,
        memory: Cycles,
        profiles: Callable[[], Iterable[str]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._supervisor, self._memory = settings, supervisor, memory
        self._profiles, self._now = profiles, now
        parse_cron(settings.cron)
        parse_zone(settings.timezone)
        self._looking = threading.Lock()
        self._scheduler: BackgroundScheduler | None = None

    def start(self, first_look_s: float = FIRST_LOOK_S) -> None:
        """Nights come from now on, if the schedule is enabled."""
        if not self._settings.enabled or self._scheduler is not None:
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
        if not self._settings.enabled:
            return None
        return next_run(self._settings.cron, self._settings.timezone, self._now())

    def look(self) -> None:
        """Every profile to which a night is owed is being adapted; those that must wait keep it owed."""
        with self._looking:
            for profile in self._profiles():
                self._look_after(profile, self._now())

    def _look_after(self, profile: str, now: datetime) -> None:
        last_run = self._memory.last_run(profile)
        if last_run is None or last_run > now:  # seen for the first time, or noted by a clock that was wrong
            self._memory.note_run(profile, now)
            return
        moment = missed_run(self._settings.cron, self._settings.timezone, last_run, now)
        if moment is not None:
            self._run(profile, moment, last_run, now)

    def _run(self, profile: str, moment: datetime, last_run: datetime, now: datetime) -> None:
        """Noted first: a night that takes the daemon down with it is not tried again at each start."""
        self._memory.note_run(profile, now)
        try:
            self._supervisor.adapt(profile, "schedule")
        except (JobRunning, ModelLoading):
            self._memory.note_run(profile, last_run)
        except NothingToLearn as error:
            log.info("night_skipped", profile=profile, words=str(error))
        except LarsError as error:
            log.warning("night_failed", profile=profile, error=str(error))
        else:
            log.info(
                "night_began", profile=profile, scheduled=moment.isoformat(), late_s=int((now - moment).total_seconds())
            )
