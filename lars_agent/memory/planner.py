"""A budget becomes the fastest plan that keeps it, or BudgetTooSmall. Pure: the same numbers give the same plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from lars_agent.errors import BudgetTooSmall
from lars_agent.memory.estimate import Estimate, Workload, estimate
from lars_agent.memory.plan import Plan
from lars_agent.memory.shape import ModelShape

__all__ = ["Planned", "choose_plan", "ladder"]

MARGIN = 1.05  # a plan must fit with this much to spare: an estimate is off by a few percent
PROMPT_CHUNKS = (512, 256, 128, 64)
LOSS_CHUNKS = (32, 8)

# What a lever costs, as a factor on the time of a step. Rough: they only have to put the plans in order.
RECOMPUTE_TIME = 1.25
EIGHT_BIT_TIME = 1.04
HALVED_BATCH_TIME = 1.15
HALVED_CHUNK_TIME = 1.03
SMALL_LOSS_CHUNK_TIME = 1.02


@dataclass(frozen=True)
class Planned:
    """A plan, what it will take, and how long its step is, as a multiple of the fastest plan's."""

    plan: Plan
    estimate: Estimate
    relative_time: float

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "plan": self.plan.as_dict(),
            "estimate": self.estimate.as_dict(),
            "predicted_peak_bytes": self.estimate.peak_bytes,
            "relative_time": round(self.relative_time, 3),
        }


def choose_plan(shape: ModelShape, load: Workload, budget_bytes: int | None, batch_size: int) -> Planned:
    """The fastest plan whose predicted peak, with `MARGIN` to spare, is within the budget; None is no budget.

    Raises BudgetTooSmall that says the least budget that would do.
    """
    candidates = sorted(_candidates(shape, load, batch_size), key=lambda planned: planned.relative_time)
    for planned in candidates:
        if budget_bytes is None or needed_bytes(planned) <= budget_bytes:
            return planned
    least = min(candidates, key=needed_bytes)
    raise BudgetTooSmall(
        f"training needs at least {needed_bytes(least):,} bytes (weights {least.estimate.weights:,}, program "
        f"{least.estimate.program:,}, adapter and optimizer "
        f"{least.estimate.adapter + least.estimate.gradients + least.estimate.optimizer:,}), the budget is "
        f"{budget_bytes:,}; raise memory.budget_bytes, or lower training.max_seq_len or lars.rank"
    )


def needed_bytes(planned: Planned) -> int:
    """The least budget that a plan is chosen under."""
    return int(planned.estimate.peak_bytes * MARGIN)


def ladder(shape: ModelShape, load: Workload, batch_size: int) -> list[Planned]:
    """The plans worth having, fastest first: each needs less than all before it."""
    steps: list[Planned] = []
    for planned in sorted(_candidates(shape, load, batch_size), key=lambda planned: planned.relative_time):
        if not steps or planned.estimate.peak_bytes < steps[-1].estimate.peak_bytes:
            steps.append(planned)
    return steps


def _candidates(shape: ModelShape, load: Workload, batch_size: int) -> Iterator[Planned]:
    """Every plan for steps of `batch_size` examples."""
    for size, chunk, loss, recompute, bits in product(
        _halved(batch_size), PROMPT_CHUNKS, LOSS_CHUNKS, (False, True), (32, 8)
    ):
        plan = Plan(
            micro_batch=size,
            prompt_chunk=chunk,
            loss_chunk=loss,
            recompute=recompute,
            optimizer_bits=bits,  # type: ignore[arg-type]
        )
        yield Planned(plan, estimate(shape, load, plan), _relative_time(plan, batch_size))


def _halved(batch_size: int) -> list[int]:
    """`batch_size`, half of it, and so on down to 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _relative_time(plan: Plan, batch_size: int) -> float:
    time = HALVED_BATCH_TIME ** _halved(batch_size).index(plan.micro_batch)
    time *= HALVED_CHUNK_TIME ** PROMPT_CHUNKS.index(plan.prompt_chunk)
    time *= SMALL_LOSS_CHUNK_TIME ** LOSS_CHUNKS.index(plan.loss_chunk)
    time *= RECOMPUTE_TIME if plan.recompute else 1.0
    return time * (EIGHT_BIT_TIME if plan.optimizer_bits == 8 else 1.0)
