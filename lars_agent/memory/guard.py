"""Check this process's memory against its budget, and raise before the budget is exceeded.

Each check takes the peak resident bytes since the last `reset`, plus a prediction of the next growth from that between
earlier checks. Pages shared with other processes (the base model's weights) count by their share.
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

GROWTH_FACTOR = 2  # on the last growth: the next layer, and the extra of a backward pass over the last one
LIMIT_SHARE = 0.98  # of the budget; the rest covers page tables and kernel memory


class Guard:
    """Memory checks of this process; without a budget only the peak is recorded.

    Each check calls `on_check` first, which may raise.
    """

    def __init__(self, budget_bytes: int | None, on_check: Callable[[], None] = lambda: None) -> None:
        self.budget_bytes, self._on_check = budget_bytes, on_check
        self._limit = None if budget_bytes is None else int(LIMIT_SHARE * budget_bytes)
        self._earlier_peak, self._resets = 0, True
        self._history, self._predicts = [rss_bytes()], True  # resident bytes at the last checks

    @property
    def peak_bytes(self) -> int:
        """Peak resident bytes of this process."""
        return max(self._earlier_peak, peak_rss_bytes())

    def check(self) -> None:
        """Raise MemoryPressure if this process has come near its budget since `reset`, or is predicted to."""
        self._on_check()
        if self._limit is None:
            return
        held = peak_rss_bytes() if self._resets else rss_bytes()
        predicted = held + self._next_growth(held) if self._predicts else held
        if predicted <= self._limit:
            return
        shared = max(0, rss_bytes() - pss_bytes())
        if predicted - shared > self._limit:
            message = f"training holds {held - shared:,} bytes of its budget of {self.budget_bytes:,}"
            raise MemoryPressure(message, held - shared)

    def reset(self) -> None:
        """Return free memory to the system and restart the checks' peak; `peak_bytes` keeps the overall one."""
        give_back()
        self._earlier_peak = self.peak_bytes
        self._resets = reset_peak()
        self._history = [rss_bytes()]

    def use_full_budget(self, held_bytes: int) -> None:
        """Use the budget itself as limit, for the smallest plan. Raises BudgetExceeded if it is exceeded."""
        self._limit, self._predicts = self.budget_bytes, False
        if self.budget_bytes is not None and held_bytes > self.budget_bytes:
            raise BudgetExceeded(
                f"training holds {held_bytes:,} bytes under its smallest plan, the budget is {self.budget_bytes:,}; "
                "raise memory.budget_bytes, or lower training.max_seq_len or lars.rank"
            )

    @contextmanager
    def check_layers(self, model: nn.Module) -> Iterator[None]:
        """Run a `check` before each decoder layer of `model`, also when it is recomputed, inside the block."""
        firsts = [next(layer.children()) for layer in decoder_layers(model).values()]
        hooks = [first.register_forward_pre_hook(lambda module, args: self.check()) for first in firsts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _next_growth(self, held: int) -> int:
        """Predict the growth until the next check from two in a row (a single one may be a first use)."""
        self._history = [*self._history[-2:], held]
        growths = [later - earlier for earlier, later in pairwise(self._history)]
        return GROWTH_FACTOR * max(0, min(growths)) if len(growths) > 1 else 0
