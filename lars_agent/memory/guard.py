"""A process that watches what it holds against its budget, and says so before it is at the wall.

Looked at are the most resident bytes since the last look, so that what came and went in between counts, with as much on
top as that has grown by from look to look, so that the next piece of work does not pass the budget. Pages that other
processes map too (the base model's weights) count by their share. Where the kernel holds the process to the same budget
(cgroup v2), this is what makes it step down before it is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from torch import nn

from lars_agent.errors import BudgetExceeded, MemoryPressure
from lars_agent.memory.allocator import give_back
from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak, rss_bytes
from lars_agent.ops.decoder_layers import decoder_layers

__all__ = ["Guard"]

AHEAD = 2  # times the last growth: the next layer, and what a backward pass takes on top of the last one
NEAR = 0.98  # of the budget; what the kernel counts beside (page tables, its own memory) is less than the rest


class Guard:
    """Watches this process; without a budget it only remembers the peak.

    `first` is called at each look before anything else: whoever must be heard between two pieces of work.
    """

    def __init__(self, budget_bytes: int | None, first: Callable[[], None] = lambda: None) -> None:
        self.budget_bytes, self._first = budget_bytes, first
        self._line = None if budget_bytes is None else int(NEAR * budget_bytes)
        self._before, self._resets = 0, True
        self._seen, self._looks_ahead = [rss_bytes()], True  # the most that was held at the last looks

    @property
    def peak_bytes(self) -> int:
        """The most that this process has held, resident."""
        return max(self._before, peak_rss_bytes())

    def check(self) -> None:
        """Raises MemoryPressure when this process has come near its budget since `relax`, or soon would.

        And what `first` raises.
        """
        self._first()
        if self._line is None:
            return
        held = peak_rss_bytes() if self._resets else rss_bytes()
        ahead = held + self._next_growth(held) if self._looks_ahead else held
        if ahead <= self._line:
            return
        shared = max(0, rss_bytes() - pss_bytes())  # what others share counts by their share
        if ahead - shared > self._line:
            words = f"training holds {held - shared:,} bytes of its budget of {self.budget_bytes:,}"
            raise MemoryPressure(words, held - shared)

    def relax(self) -> None:
        """What is free is the system's again, and what was held so far counts no longer but for `peak_bytes`."""
        give_back()
        self._before = self.peak_bytes
        self._resets = reset_peak()
        self._seen = [rss_bytes()]

    def insist(self, held_bytes: int) -> None:
        """There is no smaller plan: the budget is the line from here on. Raises BudgetExceeded if it is passed."""
        self._line, self._looks_ahead = self.budget_bytes, False
        if self.budget_bytes is not None and held_bytes > self.budget_bytes:
            raise BudgetExceeded(
                f"training holds {held_bytes:,} bytes under its smallest plan, the budget is {self.budget_bytes:,}; "
                "raise memory.budget_bytes, or lower training.max_seq_len or lars.rank"
            )

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Inside, each decoder layer of `model` begins with a `check`, in backward passes that recompute it too."""
        firsts = [next(layer.children()) for layer in decoder_layers(model).values()]
        hooks = [first.register_forward_pre_hook(lambda module, args: self.check()) for first in firsts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _next_growth(self, held: int) -> int:
        """By how much it may grow until the next look: what it grew by twice in a row (once may be the first use)."""
        self._seen = [*self._seen[-2:], held]
        growths = [later - earlier for earlier, later in pairwise(self._seen)]
        return AHEAD * max(0, min(growths)) if len(growths) > 1 else 0
