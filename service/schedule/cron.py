"""The schedule: its cron expression, its time zone, and the window that opens at each scheduled time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import tzlocal
from cronsim import CronSim, CronSimError

from lars_agent.errors import ConfigError
from service.schedule.idle_policy import Window
from service.settings.sections import Schedule

FIELDS = 5  # cronsim takes a sixth one, seconds


def next_run(cron: str, timezone: str | None, after: datetime, key: str = "schedule.cron") -> datetime:
    """Return the first scheduled time later than `after`, as crontab(5) reads the expression.

    Clock changes are treated as Debian's cron does: a wall time that is skipped runs right after the change, one that
    is repeated runs once. `timezone` None is the device's own, `key` the setting that errors name. Raises ConfigError
    for an invalid expression or zone.
    """
    try:
        zone = tzlocal.get_localzone() if timezone is None else ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"schedule.timezone is {timezone!r}, which is not a time zone of this device; "
            f'write a name such as "Europe/Berlin", or leave it out for the device\'s own'
        ) from error
    try:
        if len(cron.split()) != FIELDS:
            raise ValueError(f"it has {len(cron.split())} fields, not {FIELDS}")
        expression = cron.upper().replace("-SUN", "-7")  # cronsim's SUN is 0, which ends no range
        for moment in CronSim(expression, after.astimezone(zone)):
            if moment.astimezone(UTC) > after:  # within a repeated hour cronsim returns the first of the two
                return moment
        raise ValueError("no date matches it")
    except (CronSimError, ValueError) as error:
        raise ConfigError(
            f"{key} is {cron!r}, which is not a valid cron expression ({error}); "
            f'write minute, hour, day of month, month and day of week, such as "0 3 * * *"'
        ) from error


def missed_run(cron: str, timezone: str | None, last_run: datetime, now: datetime) -> datetime | None:
    """Return the first scheduled time after `last_run`, or None if it is later than `now`."""
    moment = next_run(cron, timezone, last_run)
    return moment if moment <= now else None


class ScheduleWindow:
    """The schedule's window at the time that `now` returns.

    Raises ConfigError for an invalid cron expression or time zone, whether the schedule is enabled or not.
    `owing` are the profiles whose scheduled run was still due at the scheduler's last check.
    """

    def __init__(self, settings: Schedule, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.now = now
        self.owing: set[str] = set()
        self.use(settings)

    def use(self, settings: Schedule) -> None:
        """Apply `settings` from now on. Raises ConfigError, and nothing has changed."""
        next_run(settings.cron, settings.timezone, self.now())
        self.settings = settings

    def state(self, begun: bool) -> Window:
        """Return the window's state for work that has `begun`, or else for the runs that are due."""
        if not self.settings.enabled or not (begun or self.owing):
            return "shut"
        if self.opened(self.now()) is not None:
            return "open"
        return "overdue" if self.settings.make_up else "shut"

    def opened(self, now: datetime) -> datetime | None:
        """Return the time at which the window that is open at `now` opened, or None if none is open."""
        length = timedelta(hours=self.settings.window_hours)
        return missed_run(self.settings.cron, self.settings.timezone, now - length, now)
