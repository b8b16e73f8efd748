"""What a cron expression means: which moment comes after another one, in which time zone.

Triggers are asked in a zone without changes of clocks, which stands for the wall clock: asked in a zone that has them,
APScheduler 3.11 never comes back from the hour that is repeated.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import tzlocal
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from lars_agent.errors import ConfigError

FIELDS = ("minute", "hour", "day", "month", "day_of_week")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # cron counts from Sunday, and Sunday is 7 as well
_WEEKDAY_NUMBERS = re.compile(r"(\*|[0-7])(?:-([0-7]))?(?:/(\d+))?")

CLOCK_CHANGE = timedelta(hours=2)  # no zone puts its clocks forward by more


def parse_cron(cron: str) -> BaseTrigger:
    """The trigger, on the wall clock, of a five-field cron expression as crontab(5) reads it.

    Raises ConfigError, naming the value, for an expression that cannot be or that never comes.
    """
    try:
        trigger = _trigger(cron)
        comes = trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC))
    except ValueError as error:
        raise ConfigError(
            f"schedule.cron is {cron!r}, which is no cron expression ({error}); "
            f'write minute, hour, day of month, month and day of week, such as "0 3 * * *"'
        ) from error
    if comes is None:
        raise ConfigError(f"schedule.cron is {cron!r}, a moment that never comes; choose a day that the month has")
    return trigger


def next_run(cron: str, timezone: str | None, after: datetime) -> datetime:
    """The first scheduled moment later than `after`; `timezone` None is the device's own.

    A wall-clock time that a change of clocks leaves out comes an hour later that day; one that comes twice counts once.
    Raises ConfigError, naming the value, for a cron expression or a time zone that cannot be.
    """
    trigger, zone = parse_cron(cron), parse_zone(timezone)
    wall = (after.astimezone(zone) - CLOCK_CHANGE).replace(tzinfo=UTC, fold=0)
    while True:
        wall = _next(trigger, wall)
        moment = wall.replace(tzinfo=zone).astimezone(UTC)  # fold 0: the first of two, and past what is left out
        if moment > after:
            return moment.astimezone(zone)


def missed_run(cron: str, timezone: str | None, last_run: datetime, now: datetime) -> datetime | None:
    """The first scheduled moment after `last_run`, if it is not later than `now`; None if no run is owed."""
    moment = next_run(cron, timezone, last_run)
    return moment if moment <= now else None


def opened(cron: str, timezone: str | None, window: timedelta, now: datetime) -> datetime | None:
    """When the window opened that is open at `now`: the first scheduled moment less than `window` ago."""
    moment = next_run(cron, timezone, now - window)
    return moment if moment <= now else None


def _next(trigger: BaseTrigger, wall: datetime) -> datetime:
    moment = trigger.get_next_fire_time(None, wall + timedelta(microseconds=1))
    assert isinstance(moment, datetime)  # parse_cron has refused what never comes
    return moment


def parse_zone(timezone: str | None) -> tzinfo:
    """The time zone of that name; None is the device's own. Raises ConfigError, naming it, where there is none."""
    if timezone is None:
        return tzlocal.get_localzone()
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"schedule.timezone is {timezone!r}, which is no time zone of this device; "
            f'write a name such as "Europe/Berlin", or leave it out for the device\'s own'
        ) from error


def _trigger(cron: str) -> BaseTrigger:
    """As crontab(5) has it: when both days are restricted, either of them is enough."""
    values = cron.split()
    if len(values) != len(FIELDS):
        raise ValueError(f"it has {len(values)} fields, not {len(FIELDS)}")
    fields = dict(zip(FIELDS, values, strict=True))
    fields["day_of_week"] = ",".join(_weekdays(item) for item in fields["day_of_week"].split(","))
    if fields["day"].startswith("*") or values[4].startswith("*"):
        return CronTrigger(**fields, timezone=UTC)
    either = [{**fields, "day": "*"}, {**fields, "day_of_week": "*"}]
    return OrTrigger([CronTrigger(**days, timezone=UTC) for days in either])


def _weekdays(item: str) -> str:
    """One item of the day-of-week field with names for numbers: APScheduler counts from Monday, cron from Sunday."""
    match = _WEEKDAY_NUMBERS.fullmatch(item)
    if item == "*" or match is None:
        return item
    first, last, step = match.groups()
    if first == "*":
        first, last = "0", "6"
    end = int(last or (6 if step else first))
    days = range(int(first), end + 1, int(step or 1))
    if not days:
        raise ValueError(f"{item!r} ends before it begins")
    return ",".join(dict.fromkeys(WEEKDAYS[day % 7] for day in days))
