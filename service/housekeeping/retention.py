"""Decide from ages and sizes which items to remove. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """The maximum age of an item and the maximum size of all together; 0 is no limit."""

    days: float = 0
    bytes: int = 0


@dataclass(frozen=True)
class Item(Generic[Id]):
    """An item of some size; a protected one is never removed."""

    id: Id
    created: datetime
    bytes: int = 0
    protected: bool = False


def expired(items: Iterable[Item[Id]], limits: Limits, now: datetime) -> list[Id]:
    """Return the items to remove, oldest first: all that are too old, then as many as it takes for the rest to fit.

    An item from the future counts as new, so that a wrong clock removes nothing early. Of the same age, those given
    first are removed first.
    """
    oldest_first = sorted(items, key=lambda item: min(item.created, now))
    held_bytes = sum(item.bytes for item in oldest_first)
    gone = []
    for item in oldest_first:
        too_old = limits.days > 0 and now - item.created > timedelta(days=limits.days)
        too_much = 0 < limits.bytes < held_bytes
        if (too_old or too_much) and not item.protected:
            gone.append(item.id)
            held_bytes -= item.bytes
    return gone
