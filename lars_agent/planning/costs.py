"""How long a training step takes under a plan, from what its pieces take on a device. Pure: numbers in, seconds out.

Each piece is a line, seconds = fixed + each x n, which `lars_agent.planning.calibrate` measures. The planner only needs
the order of the plans to be right, and roughly their distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import Rows, Workload, batches_of

__all__ = ["DEFAULT_COSTS", "Costs", "Line", "step_seconds"]


@dataclass(frozen=True)
class Line:
    """fixed + each x n seconds."""

    fixed: float
    each: float

    def at(self, n: float) -> float:
        """Seconds for n."""
        return self.fixed + self.each * n


@dataclass(frozen=True)
class Costs:
    """Seconds that the pieces of a step take.

    Attributes:
        read: one layer without autograd, by tokens; `attend` is for each pair of a query's and a key's token on top.
        forward, backward: one layer with autograd, by tokens; `mlp` is its MLP's forward pass.
        loss: a chunk of the loss for each word of the vocabulary, by rows.
        moments32, moments8: AdamW's step, for each parameter.
        int8, disk: keeping an activation so, for each number, both ways.
        started_bytes: not seconds, but measured by the way: what a process grows by when it has done all this once
            (modules, threads, compiled kernels).
    """

    read: Line
    attend: float
    forward: Line
    backward: Line
    mlp: Line
    loss: Line
    moments32: float
    moments8: float
    int8: float
    disk: float
    started_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Costs:
        """The costs that `as_dict` wrote. Raises KeyError or TypeError for a record of another shape."""
        values: dict[str, Any] = {item.name: record[item.name] for item in fields(cls)}
        lines = {name: Line(**value) for name, value in values.items() if isinstance(value, Mapping)}
        return cls(**values | lines)


# SmolLM2-135M in bfloat16 on two cores of an AMD EPYC, where nothing has been measured.
DEFAULT_COSTS = Costs(
    read=Line(1.4e-3, 3.0e-5),
    attend=1.8e-8,
    forward=Line(3.0e-3, 4.0e-5),
    backward=Line(4.0e-3, 6.0e-5),
    mlp=Line(8.0e-4, 2.0e-5),
    loss=Line(8.0e-8, 1.5e-8),
    moments32=2.5e-9,
    moments8=1.5e-8,
    int8=1.5e-9,
    disk=2.0e-9,
    started_bytes=45_000_000,
)


def step_seconds(shape: ModelShape, load: Workload, plan: MemoryPlan, costs: Costs) -> float:
    """Seconds of one optimizer step of middling length, and its rehearsal."""
    batches = batches_of(load.typical_step, plan.micro_batch, packed=shape.packed)
    seconds = sum(_batch_seconds(shape, plan, rows, costs) for rows in batches)
    if load.typical_rehearsal:  # the base model's pass, and the adapter's
        seconds += 2 * _batch_seconds(shape, plan, Rows.of(load.typical_rehearsal, packed=shape.packed), costs)
    moments = costs.moments8 if plan.optimizer_bits == 8 else costs.moments32
    return seconds + moments * shape.adapter_parameters


def _batch_seconds(shape: ModelShape, plan: MemoryPlan, rows: Rows, costs: Costs) -> float:
    """Seconds of a forward and a backward pass over `rows`."""
    seconds, acting = 0.0, rows.prompt + rows.reply
    if shape.response:
        acting = rows.reply
        whole, rest = divmod(rows.prompt, plan.prompt_chunk)
        chunks = [plan.prompt_chunk] * whole + [rest] * (rest > 0)
        seconds += shape.layers * sum(costs.read.at(tokens) for tokens in chunks)
        seconds += shape.layers * costs.attend * rows.prompt * rows.longest / 2
    attending = shape.layers * costs.attend * acting * rows.longest
    seconds += 3 * attending + _layers_seconds(shape, plan, acting, costs)
    return seconds + _loss_seconds(shape, plan, rows, costs)


def _layers_seconds(shape: ModelShape, plan: MemoryPlan, tokens: int, costs: Costs) -> float:
    """The layers forward, as often as they are run, and backward; those below the adapted ones once and forward."""
    forwards = 2 if plan.recompute else 1
    one = forwards * costs.forward.at(tokens) + costs.backward.at(tokens)
    if plan.mlp_tile and shape.response:
        tiles = -(-tokens // plan.mlp_tile)
        one += (1 + forwards) * (tiles - 1) * costs.mlp.fixed + costs.mlp.at(tokens)
    if plan.saved != "whole":
        kept = shape.hidden if plan.recompute else 10 * shape.hidden + 3 * shape.intermediate
        one += tokens * kept * (costs.int8 if plan.saved == "int8" else costs.disk)
    return shape.adapted_layers * one + (shape.layers - shape.adapted_layers) * costs.forward.at(tokens)


def _loss_seconds(shape: ModelShape, plan: MemoryPlan, rows: Rows, costs: Costs) -> float:
    whole, rest = divmod(rows.reply, plan.loss_chunk)
    seconds = whole * costs.loss.at(plan.loss_chunk) + (costs.loss.at(rest) if rest else 0.0)
    return seconds * shape.vocabulary
