"""Why the worker is paused, how often it was and for how long. Pure: the time is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceReason = Literal["battery", "cpu", "disk", "heat", "load", "memory", "pressure", "throttling"]
PauseReason = DeviceReason | Literal["people", "recent requests", "requests", "user", "window"]


@dataclass(frozen=True)
class Pause:
    """How often the worker was paused for a reason, and for how long all together."""

    count: int = 0
    seconds: float = 0.0


class PauseReasons:
    """The active reasons to pause, and the pauses so far; `now` is seconds by a monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[PauseReason, float] = {}
        self._pauses: dict[PauseReason, Pause] = {}

    @property
    def active(self) -> frozenset[PauseReason]:
        """The active reasons."""
        return frozenset(self._since)

    def paused_s(self, now: float) -> float:
        """Return for how long some reason has held; 0 where none does."""
        return now - min(self._since.values()) if self._since else 0.0

    def add(self, reason: PauseReason, now: float) -> None:
        """Begin a pause, unless it has begun for this reason."""
        self._since.setdefault(reason, now)

    def remove(self, reason: PauseReason, now: float) -> None:
        """End the pause for this reason and count it."""
        if reason in self._since:
            self._count(reason, now)
            del self._since[reason]

    def take(self, now: float) -> dict[PauseReason, Pause]:
        """Return the pauses since the last call, up to now where one goes on."""
        for reason in self._since:
            self._count(reason, now)
        pauses, self._pauses = self._pauses, {}
        return pauses

    def reset(self) -> None:
        """Forget the pauses so far, and the user's reason with them."""
        self._since.pop("user", None)
        self._pauses = {}

    def _count(self, reason: PauseReason, now: float) -> None:
        before = self._pauses.get(reason, Pause())
        self._pauses[reason] = Pause(before.count + 1, before.seconds + now - self._since[reason])
        self._since[reason] = now
