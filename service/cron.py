"""What a cron expression means: which moment comes after another one, in which time zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from lars_agent.errors import ConfigError

FIELDS = ("minute", "hour", "day", "month", "day_of_week")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # cron counts from Sunday, and Sunday is 7 as well
_WEEKDAY_NUMBERS = re.compile(r"(\*|[0-7])(?:-([0-7]))?(?:/(\d+))?")


def parse_cron(cron: str, timezone: str | None = None) -> BaseTrigger:
    """The trigger of a five-field cron expression, as crontab(5) reads it; `timezone` None is the device's own.

    Raises ConfigError, naming the value, for an expression or a time zone that cannot be or that never comes.
    """
    zone = _zone(timezone)
    try:
        trigger = _trigger(cron, zone)
        comes = trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=ZoneInfo("UTC")))
    except ValueError as error:
        raise ConfigError(
            f"schedule.cron is {cron!r}, which is no cron expression ({error}); "
            f'write minute, hour, day of month, month and day of week, such as "0 3 * * *"'
        ) from error
    if comes is None:
        raise ConfigError(f"schedule.cron is {cron!r}, a moment that never comes; choose a day that the month has")
    return trigger


def next_run(cron: str, timezone: str | None, after: datetime) -> datetime:
    """The first scheduled moment later than `after`.

    A wall-clock time that a change of clocks leaves out comes an hour later that day; one that comes twice counts once.
    """
    trigger = parse_cron(cron, timezone)
    moment = _next(trigger, after)
    while moment.fold:  # the hour that is repeated when summer time ends: its first pass was the scheduled one
        moment = _next(trigger, moment)
    return moment


def missed_run(cron: str, timezone: str | None, last_run: datetime, now: datetime) -> datetime | None:
    """The first scheduled moment after `last_run`, if it is not later than `now`; None if no run is owed."""
    moment = next_run(cron, timezone, last_run)
    return moment if moment <= now else None


def _next(trigger: BaseTrigger, after: datetime) -> datetime:
    moment = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
    assert isinstance(moment, datetime)  # parse_cron has refused what never comes
    return moment


def _zone(timezone: str | None) -> ZoneInfo | None:
    if timezone is None:
        return None
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"schedule.timezone is {timezone!r}, which is no time zone of this device; "
            f'write a name such as "Europe/Berlin", or leave it out for the device\'s own'
        ) from error


def _trigger(cron: str, zone: ZoneInfo | None) -> BaseTrigger:
    """As crontab(5) has it: when both days are restricted, either of them is enough."""
    values = cron.split()
    if len(values) != len(FIELDS):
        raise ValueError(f"it has {len(values)} fields, not {len(FIELDS)}")
    fields = dict(zip(FIELDS, values, strict=True))
    fields["day_of_week"] = ",".join(_weekdays(item) for item in fields["day_of_week"].split(","))
    if fields["day"].startswith("*") or values[4].startswith("*"):
        return CronTrigger(**fields, timezone=zone)
    either = [{**fields, "day": "*"}, {**fields, "day_of_week": "*"}]
    return OrTrigger([CronTrigger(**days, timezone=zone) for days in either])


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
