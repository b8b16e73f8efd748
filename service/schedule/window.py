"""Where the schedule stands: whether now is the time for a night's work, or past it, or neither."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.schedule.cron import opened, parse_cron, parse_zone
from service.schedule.idle_policy import Window
from service.settings.sections import Schedule


class ScheduleWindow:
    """The schedule's window at the time that `now` tells.

    Raises ConfigError for a cron expression or a time zone that cannot be, enabled or not.

    Attributes:
        owing: the profiles to which a night was owed at the scheduler's last look.
    """

    def __init__(self, settings: Schedule, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.now = now
        self.owing: set[str] = set()
        self.use(settings)

    def use(self, settings: Schedule) -> None:
        """Go by `settings` from now on. Raises ConfigError, and nothing has changed."""
        parse_cron(settings.cron)
        parse_zone(settings.timezone)
        self.settings = settings

    def state(self, begun: bool) -> Window:
        """Return where the schedule stands, for work that has `begun` or for what is owed."""
        if not self.settings.enabled or not (begun or self.owing):
            return "shut"
        if self.opened(self.now()) is not None:
            return "open"
        return "late" if self.settings.make_up else "shut"

    def opened(self, now: datetime) -> datetime | None:
        """Return when the window that is open at `now` opened."""
        settings = self.settings
        return opened(settings.cron, settings.timezone, timedelta(hours=settings.window_hours), now)
