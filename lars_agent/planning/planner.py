"""A budget becomes the fastest plan that keeps it, or BudgetTooSmall. Pure: the same numbers give the same plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from lars_agent.errors import BudgetTooSmall
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.saved_tensors import Saved
from lars_agent.planning.costs import DEFAULT_COSTS, Costs, step_seconds
from lars_agent.planning.estimate import Estimate, estimate
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import Workload

__all__ = ["EstimatedPlan", "choose_plan", "estimated_as", "ladder", "needed_bytes"]

MARGIN = 1.05  # a plan must fit with this much to spare: an estimate is off by a few percent
PROMPT_CHUNKS = (512, 256, 128, 64)
LOSS_CHUNKS = (32, 8)
BITS: tuple[Literal[8, 32], ...] = (32, 8)
MLP_TILES = (0, 64)
KEEPING: tuple[tuple[bool, Saved], ...] = (  # recomputation, and how what autograd keeps is kept
    (False, "whole"),
    (False, "int8"),
    (True, "whole"),
    (True, "disk"),
)


@dataclass(frozen=True)
class EstimatedPlan:
    """A plan, what it will take, how long its step is in seconds, and as a multiple of the fastest plan's."""

    plan: MemoryPlan
    estimate: Estimate
    step_seconds: float
    relative_time: float

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "plan": self.plan.as_dict(),
            "estimate": self.estimate.as_dict(),
            "predicted_peak_bytes": self.estimate.peak_bytes,
            "least_budget_bytes": needed_bytes(self),
            "step_seconds": round(self.step_seconds, 4),
            "relative_time": round(self.relative_time, 3),
        }


def choose_plan(steps: Sequence[EstimatedPlan], budget_bytes: int | None) -> EstimatedPlan:
    """The fastest of a `ladder` whose predicted peak, with `MARGIN` to spare, is within the budget; None is no budget.

    Raises BudgetTooSmall that says the least budget that would do.
    """
    for planned in steps:
        if budget_bytes is None or needed_bytes(planned) <= budget_bytes:
            return planned
    least = steps[-1]
    assert budget_bytes is not None  # or the first would have been taken
    raise BudgetTooSmall(
        f"training needs at least {needed_bytes(least):,} bytes (weights {least.estimate.weights:,}, program "
        f"{least.estimate.program:,}, adapter and optimizer "
        f"{least.estimate.adapter + least.estimate.gradients + least.estimate.optimizer:,}), the budget leaves "
        f"{budget_bytes:,}; raise memory.budget_bytes by {needed_bytes(least) - budget_bytes:,}, lower "
        "training.max_seq_len or lars.rank, set lars.top_layers, or keep the model in fewer bits (model.dtype)"
    )


def needed_bytes(planned: EstimatedPlan) -> int:
    """The least budget that a plan is chosen under."""
    return int(planned.estimate.peak_bytes * MARGIN)


def ladder(shape: ModelShape, load: Workload, batch_size: int, costs: Costs = DEFAULT_COSTS) -> list[EstimatedPlan]:
    """The plans worth having, fastest first: each needs less than all before it."""
    timed = [(step_seconds(shape, load, plan, costs), plan) for plan in _candidates(shape, batch_size)]
    timed.sort(key=lambda pair: pair[0])
    steps: list[EstimatedPlan] = []
    for seconds, plan in timed:
        needed = estimate(shape, load, plan)
        if not steps or needed.peak_bytes < steps[-1].estimate.peak_bytes:
            steps.append(EstimatedPlan(plan, needed, seconds, seconds / timed[0][0]))
    return steps


def estimated_as(
    plan: MemoryPlan, fastest: EstimatedPlan, shape: ModelShape, load: Workload, costs: Costs
) -> EstimatedPlan:
    """What a plan that somebody else chose will take, beside the fastest."""
    seconds = step_seconds(shape, load, plan, costs)
    return EstimatedPlan(plan, estimate(shape, load, plan), seconds, seconds / fastest.step_seconds)


def _candidates(shape: ModelShape, batch_size: int) -> Iterator[MemoryPlan]:
    """Every plan for steps of `batch_size` examples."""
    chunks, tiles = (PROMPT_CHUNKS, MLP_TILES) if shape.response else (PROMPT_CHUNKS[:1], MLP_TILES[:1])
    for size, chunk, loss, (recompute, saved), bits, tile in product(
        _halved(batch_size), chunks, LOSS_CHUNKS, KEEPING, BITS, tiles
    ):
        yield MemoryPlan(size, chunk, loss, recompute, bits, tile, saved)


def _halved(batch_size: int) -> list[int]:
    """`batch_size`, half of it, and so on down to 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
