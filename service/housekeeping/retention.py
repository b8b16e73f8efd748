"""What is kept no longer, decided from ages and sizes. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

__all__ = ["Item", "Limits", "expired"]

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """How old things may grow, and how much they may take together; 0 is no limit."""

    days: float = 0
    bytes: int = 0


@dataclass(frozen=True)
class Item(Generic[Id]):
    """Something that takes room; one that is protected takes it whatever the limits say."""

    id: Id
    created: datetime
    bytes: int = 0
    protected: bool = False


def expired(items: Iterable[Item[Id]], limits: Limits, now: datetime) -> list[Id]:
    """Who goes, the oldest first: all that are too old, and then as many as it takes for the rest to fit.

    Who comes from the future is as young as can be: a clock that was wrong, or is, must not cost anything but its due.
    Of the same age, those go first that are given first.
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
