"""Go back to the parent of a version whose replies are rated significantly worse: people see what no gate measures."""

from __future__ import annotations

import math
from typing import NamedTuple

from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import AdapterError
from service.cycle.context import CycleContext
from service.db.records import FeedbackRecord
from service.serving.adapter_switch import label


class Ratings(NamedTuple):
    """The numbers of replies that were liked, and of those that were disliked or corrected."""

    good: int = 0
    bad: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.good + self.bad


class RatingsWatch:
    """Looks at the ratings of a version when one of its replies is disliked, as a job of `periodic`.

    No version is rolled back twice: who activates it again means it.
    """

    def __init__(self, context: CycleContext, periodic: BackgroundScheduler) -> None:
        self._context, self._periodic = context, periodic
        self._rolled_back: set[tuple[str, int | None]] = set()

    def note(self, record: FeedbackRecord) -> None:
        """Take in new feedback."""
        is_bad = record.correction is not None or (record.rating is not None and record.rating <= 0)
        if is_bad and record.adapter_version is not None:
            self._periodic.add_job(self.roll_back_if_worse, args=(record.profile,), misfire_grace_time=None)

    def roll_back_if_worse(self, profile: str) -> bool:
        """Have the parent serve the profile if the active version is rated worse, and raise an alarm; tell if so."""
        context = self._context
        with context.switch.held():
            try:
                active, parent = context.store.active(profile), context.store.parent(profile)
            except AdapterError:  # the base model serves, or the line is broken
                return False
            found = {version: Ratings(*counts) for version, counts in context.db.feedback.ratings(profile).items()}
            now, before = found.get(active, Ratings()), found.get(parent, Ratings())
            is_worse = chance_of_worse(now, before) < context.settings.gate.rollback_chance
            if not is_worse or (profile, active) in self._rolled_back:
                return False
            self._rolled_back.add((profile, active))
            context.switch.activate(profile, parent)
            message = (
                f"{profile} is back on {label(parent)}: of {now.total} rated replies of {label(active)} {now.bad} were "
                f"disliked or corrected, of {before.total} of {label(parent)} {before.bad}"
            )
            context.switch.note("adapter_rolled_back", message, profile)
            return True


def chance_of_worse(now: Ratings, before: Ratings) -> float:
    """Return the chance, 0 to 1, of at least so many bad ratings `now` if both were equally good.

    Fisher's exact test, one-sided (Fisher, 1922).
    """
    bad, total = now.bad + before.bad, now.total + before.total
    ways = sum(math.comb(now.total, count) * math.comb(before.total, bad - count) for count in range(now.bad, bad + 1))
    return ways / math.comb(total, bad)
