"""Choose the fastest memory plan within a budget. Pure: the same numbers give the same plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Literal

from lars_agent.errors import BudgetTooSmall
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.saved_tensors import Saved
from lars_agent.planning.costs import DEFAULT_COSTS, Costs, step_seconds
from lars_agent.planning.estimate import Estimate, estimate, kept_bytes
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import Workload

MARGIN = 1.05  # factor on the predicted peak: an estimate is off by a few percent
PROMPT_CHUNKS = (512, 256, 128, 64)
LOSS_CHUNKS = (32, 8)
BITS: tuple[Literal[8, 32], ...] = (32, 8)
MLP_TILES = (0, 64)
ACTIVATIONS: tuple[tuple[bool, Saved], ...] = (  # `recompute` and `saved`
    (False, "whole"),
    (False, "int8"),
    (True, "whole"),
    (True, "disk"),
)


@dataclass(frozen=True)
class EstimatedPlan:
    """A plan with its predicted bytes, seconds of a step, and step time relative to the fastest plan."""

    plan: MemoryPlan
    estimate: Estimate
    step_seconds: float
    relative_time: float

    def as_dict(self) -> dict[str, object]:
        """Return JSON values for plan.json, the API and the command line."""
        return {
            "plan": asdict(self.plan),
            "estimate": asdict(self.estimate),
            "predicted_peak_bytes": self.estimate.peak_bytes,
            "least_budget_bytes": needed_bytes(self),
            "step_seconds": round(self.step_seconds, 4),
            "relative_time": round(self.relative_time, 3),
        }


def choose_plan(steps: Sequence[EstimatedPlan], budget_bytes: int | None) -> EstimatedPlan:
    """Return the fastest plan of a `ladder` that needs at most `budget_bytes`; None is no budget.

    Raises BudgetTooSmall, naming the least sufficient budget.
    """
    for planned in steps:
        if budget_bytes is None or needed_bytes(planned) <= budget_bytes:
            return planned
    least = steps[-1]
    assert budget_bytes is not None  # the first plan would have been returned
    raise BudgetTooSmall(
        f"training needs at least {needed_bytes(least):,} bytes (weights {least.estimate.weights:,}, program "
        f"{least.estimate.program:,}, adapter and optimizer "
        f"{least.estimate.adapter + least.estimate.gradients + least.estimate.optimizer:,}), the budget leaves "
        f"{budget_bytes:,}; raise memory.budget_bytes by {needed_bytes(least) - budget_bytes:,}, lower "
        "training.max_seq_len or lars.rank, set lars.top_layers, or keep the model in fewer bits (model.dtype)"
    )


def needed_bytes(planned: EstimatedPlan) -> int:
    """Return the least budget under which a plan is chosen."""
    return int(planned.estimate.peak_bytes * MARGIN)


def keep_prompts(
    planned: EstimatedPlan, budget_bytes: int | None, most_bytes: int, shape: ModelShape, load: Workload
) -> EstimatedPlan:
    """Return the plan with as many groups of prompts kept as its budget leaves room for, `most_bytes` at most.

    Prompts that are read but once are not kept, nor are those that are padded instead of packed.
    """
    if not shape.packed:
        return planned
    room = most_bytes
    if budget_bytes is not None:
        room = min(room, int(budget_bytes / MARGIN) - planned.estimate.peak_bytes)
    count, taken = 0, 0
    for group in load.prompts:
        taken += kept_bytes(shape, load, group)
        if group.reads <= 1 or taken > room:
            break
        count += 1
    plan = replace(planned.plan, kept_prompts=count)
    return replace(planned, plan=plan, estimate=estimate(shape, load, plan))


def ladder(shape: ModelShape, load: Workload, batch_size: int, costs: Costs = DEFAULT_COSTS) -> list[EstimatedPlan]:
    """Return the Pareto-optimal plans, fastest first: each needs less memory than all before it."""
    timed = [(step_seconds(shape, load, plan, costs), plan) for plan in _candidates(shape, batch_size)]
    timed.sort(key=lambda pair: pair[0])
    steps: list[EstimatedPlan] = []
    for seconds, plan in timed:
        predicted = estimate(shape, load, plan)
        if not steps or predicted.peak_bytes < steps[-1].estimate.peak_bytes:
            steps.append(EstimatedPlan(plan, predicted, seconds, seconds / timed[0][0]))
    return steps


def estimate_plan(
    plan: MemoryPlan, fastest: EstimatedPlan, shape: ModelShape, load: Workload, costs: Costs
) -> EstimatedPlan:
    """Return the estimate of a plan chosen by the user, its time relative to the fastest plan."""
    seconds = step_seconds(shape, load, plan, costs)
    return EstimatedPlan(plan, estimate(shape, load, plan), seconds, seconds / fastest.step_seconds)


def _candidates(shape: ModelShape, batch_size: int) -> Iterator[MemoryPlan]:
    """Yield every plan for steps of `batch_size` examples."""
    chunks, tiles = (PROMPT_CHUNKS, MLP_TILES) if shape.response else (PROMPT_CHUNKS[:1], MLP_TILES[:1])
    for size, chunk, loss, (recompute, saved), bits, tile in product(
        _halves(batch_size), chunks, LOSS_CHUNKS, ACTIVATIONS, BITS, tiles
    ):
        yield MemoryPlan(size, chunk, loss, recompute, bits, tile, saved)


def _halves(batch_size: int) -> list[int]:
    """Return `batch_size`, half of it, and so on down to 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
