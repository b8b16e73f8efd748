"""Predict the seconds of a training step under a plan from the device's measured costs. Pure: no input or output.

Each cost is a line, seconds = fixed + each x n, measured by `lars_agent.planning.calibrate`. The planner needs the
order of the plans to be right, and roughly their ratio.
"""

from __future__ import annotations

from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import BatchSize, Workload, batch_sizes
from lars_agent.records import record


@record("line")
class Line:
    """Seconds as a linear function of n."""

    fixed: float
    each: float

    def at(self, n: float) -> float:
        """Return the seconds for n."""
        return self.fixed + self.each * n

    def in_chunks(self, n: int, size: int) -> float:
        """Return the seconds for n in chunks of `size` and a smaller last one."""
        return -(-n // size) * self.fixed + self.each * n


@record("costs")
class Costs:
    """Measured seconds of the parts of a step.

    Attributes:
        read: one layer without autograd, by tokens; `attend` is added for each pair of a query and a key token.
        forward, backward: one layer with autograd, by tokens; `mlp` is its MLP's forward pass.
        loss: a chunk of the loss for each vocabulary entry, by rows.
        moments32, moments8: AdamW's step, for each parameter.
        int8, disk: saving and restoring an activation, for each number.
        started_bytes: growth of the process during the measurement (modules, threads, compiled kernels).
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


# SmolLM2-135M in bfloat16 on two cores of an AMD EPYC; for devices without a measurement.
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
    """Return the seconds of one optimizer step of median length, with its rehearsal."""
    batches = batch_sizes(load.typical_step, plan.micro_batch, packed=shape.packed)
    seconds = sum(_batch_seconds(shape, plan, batch, costs) for batch in batches)
    if load.typical_rehearsal:  # once with the base model, once with the adapter
        seconds += 2 * _batch_seconds(shape, plan, BatchSize.of(load.typical_rehearsal, packed=shape.packed), costs)
    moments = costs.moments8 if plan.optimizer_bits == 8 else costs.moments32
    return seconds + moments * shape.adapter_parameters


def _batch_seconds(shape: ModelShape, plan: MemoryPlan, batch: BatchSize, costs: Costs) -> float:
    """Return the seconds of a forward and a backward pass over a batch."""
    seconds, adapted = 0.0, batch.prompt + batch.reply
    if shape.response:
        adapted = batch.reply
        seconds += shape.layers * costs.read.in_chunks(batch.prompt, plan.prompt_chunk)
        seconds += shape.layers * costs.attend * batch.prompt * batch.longest / 2
    attention = shape.layers * costs.attend * adapted * batch.longest
    seconds += 3 * attention + _layers_seconds(shape, plan, adapted, costs)
    return seconds + shape.vocabulary * costs.loss.in_chunks(batch.reply, plan.loss_chunk)


def _layers_seconds(shape: ModelShape, plan: MemoryPlan, tokens: int, costs: Costs) -> float:
    """Return the seconds of the adapted layers, forward, again if recomputed, and backward, and of those below them."""
    forwards = 2 if plan.recompute else 1
    one = forwards * costs.forward.at(tokens) + costs.backward.at(tokens)
    if plan.mlp_tile and shape.response:
        tiles = -(-tokens // plan.mlp_tile)
        one += (1 + forwards) * (tiles - 1) * costs.mlp.fixed + costs.mlp.at(tokens)
    if plan.saved != "whole":
        kept = shape.hidden if plan.recompute else 10 * shape.hidden + 3 * shape.intermediate
        one += tokens * kept * (costs.int8 if plan.saved == "int8" else costs.disk)
    return shape.adapted_layers * one + (shape.layers - shape.adapted_layers) * costs.forward.at(tokens)
