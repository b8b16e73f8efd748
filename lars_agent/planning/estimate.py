"""How many bytes a training job will take at its peak, term by term, before anything is loaded.

What is resident all the time (program, weights, adapter, gradients, optimizer), and what the widest piece of work puts
on top of it: what that piece holds from its beginning to its end (KV cache, pooled vectors, what autograd keeps), and
the largest of its scratch spaces, of which only one exists at a time. The terms are counted from the shapes; the few
factors that stand for what a library allocates on the way are the constants below. `bench planner` measures how far off
it all is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from lars_agent.ops.losses import MOST_ROWS
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import UNPACKED
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import Rows, Workload

__all__ = ["Estimate", "estimate"]

FLOAT32 = 4
MOMENT_BYTES = {32: 8.0, 8: 2.0625}  # of both moments of one parameter; in 8 bits with a scale for each block of 128
RETAINED_BYTES = 10_000_000  # small pieces that the allocator keeps, and what a whole job needs beside its steps
LAYER_BYTES = 1_000_000  # objects, small tensors and pieces between them that one layer leaves behind
PACKED_LAYER_BYTES = 2_000_000  # the same where what autograd keeps of it is packed into small pieces
NORMS = 2  # of a layer; each keeps its input in float32
HIDDEN_SCRATCH = 8  # (tokens, H) numbers that come and go while one layer runs backward, beyond what it keeps
INTERMEDIATE_SCRATCH = 3  # (tokens, I) numbers, likewise
READ_HIDDEN, READ_INTERMEDIATE = 5, 3  # numbers alive in a layer without autograd
MASK_BYTES = 3  # of one query and key, while transformers makes it
LOSS_BYTES, DIVERGENCE_BYTES = 10, 24  # of one row and word in a chunked loss
UNPACKED_BYTES = 6  # of one weight while a piece of a quantised matrix is multiplied
LEFT_BEHIND = 2.3  # of what comes and goes in 16 bits: copies that such products make, not yet used again or returned


@dataclass(frozen=True)
class Estimate:
    """Bytes of each term; see `estimate` for what they mean."""

    program: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    kv_cache: int
    pooled: int
    activations: int
    scratch: int

    @property
    def peak_bytes(self) -> int:
        """All terms together."""
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        """The terms by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class _Work:
    """What one piece of work takes."""

    kv_cache: int
    pooled: int
    activations: int
    scratch: int


def estimate(shape: ModelShape, load: Workload, plan: MemoryPlan) -> Estimate:
    """The bytes of a job of `shape` under `plan`."""
    pieces = [
        _work(shape, load, plan, rows, LOSS_BYTES)
        for rows in load.largest("steps", plan.micro_batch, packed=shape.packed)
    ]
    for rows in load.largest("rehearsals", None, packed=shape.packed):
        pieces.append(_work(shape, load, plan, rows, DIVERGENCE_BYTES))
    for rows in load.largest("judged", plan.micro_batch, packed=shape.packed):
        pieces.append(_work(shape, load, plan, rows, LOSS_BYTES, autograd=False))
    widest = max(pieces, key=lambda work: sum(vars(work).values()))
    layer_bytes = PACKED_LAYER_BYTES if plan.saved == "int8" else LAYER_BYTES
    return Estimate(
        program=load.program_bytes + RETAINED_BYTES + layer_bytes * shape.adapted_layers,
        weights=shape.weight_bytes - load.unread_bytes,
        adapter=shape.adapter_parameters * FLOAT32,
        gradients=shape.adapter_parameters * FLOAT32,
        optimizer=int(shape.adapter_parameters * MOMENT_BYTES[plan.optimizer_bits]),
        **vars(widest),
    )


def _work(
    shape: ModelShape, load: Workload, plan: MemoryPlan, rows: Rows, word_bytes: int, *, autograd: bool = True
) -> _Work:
    """A forward and (with `autograd`) a backward pass over `rows`."""
    acting = rows.reply if shape.response else rows.prompt + rows.reply  # tokens in one pass
    going = _going(shape, load, plan, acting) if autograd else _running(shape, load, acting)
    kept = acting * _layer_bytes(shape, load, plan) if autograd and plan.recompute else 0
    layer = kept + going + _mask(shape, rows, acting)
    activations = _activations(shape, load, plan, acting) if autograd else 0
    passing = max(layer, _loss(shape, plan, rows, word_bytes))
    read = min(plan.prompt_chunk, rows.prompt) if shape.response else 0  # the other poolings read nothing beforehand
    chunk = _running(shape, load, read)
    reading = chunk + _mask(shape, rows, read)  # before there is anything that autograd keeps
    left = _left_behind(load, chunk + going)
    return _Work(
        kv_cache=_kv_cache(shape, load, rows),
        pooled=_pooled(shape, rows),
        activations=activations,
        scratch=max(passing, reading - activations) + _unpacked(shape) + left,
    )


def _kv_cache(shape: ModelShape, load: Workload, rows: Rows) -> int:
    """Keys and values of the prompt in every layer; the other poolings read no prompt beforehand."""
    if not shape.response:
        return 0
    kept = rows.prompt if shape.window is None else min(rows.prompt, rows.count * shape.window)
    return 2 * shape.layers * shape.key_width * kept * load.number_bytes


def _pooled(shape: ModelShape, rows: Rows) -> int:
    """float32 for each adapted layer: the prompt's sum and last token, their pooled vector, and the bias it gives."""
    return rows.count * (3 * shape.adapted_in + 2 * shape.adapted_out) * FLOAT32


def _activations(shape: ModelShape, load: Workload, plan: MemoryPlan, tokens: int) -> int:
    """What autograd keeps: the layers' inputs alone, or, without recomputation, all that they need to go back.

    In 8 bits or on the disk where the plan says so; the per-token term's ranks stay in memory as they are.
    """
    if plan.recompute:
        per_token = _kept_bytes(shape.hidden * load.number_bytes, shape.hidden, plan)
        return shape.adapted_layers * tokens * per_token
    kept = (
        shape.adapted_layers * tokens * _kept_bytes(_layer_bytes(shape, load, plan), _layer_numbers(shape, plan), plan)
    )
    return kept + tokens * 2 * shape.ranks * FLOAT32


def _kept_bytes(whole: int, numbers: int, plan: MemoryPlan) -> int:
    """Of `whole` bytes of `numbers` numbers, what stays in memory."""
    return {"whole": whole, "int8": numbers, "disk": 0}[plan.saved]


def _layer_numbers(shape: ModelShape, plan: MemoryPlan) -> int:
    """Numbers that autograd keeps for one token of one layer: norms' inputs, queries, keys, values, what attention
    gives, and three of the MLP; of an MLP in tiles its input alone.
    """
    mlp = shape.hidden if plan.mlp_tile else 3 * shape.intermediate
    return NORMS * shape.hidden + 2 * shape.query_width + 2 * shape.key_width + mlp


def _layer_bytes(shape: ModelShape, load: Workload, plan: MemoryPlan) -> int:
    """The same in bytes: norms compute in float32."""
    in_float32 = NORMS * shape.hidden
    return in_float32 * FLOAT32 + (_layer_numbers(shape, plan) - in_float32) * load.number_bytes


def _going(shape: ModelShape, load: Workload, plan: MemoryPlan, tokens: int) -> int:
    """What comes and goes while one layer runs backward."""
    in_mlp = min(tokens, plan.mlp_tile) if plan.mlp_tile and shape.response else tokens
    intermediate = INTERMEDIATE_SCRATCH + (3 if plan.mlp_tile else 0)
    going = tokens * HIDDEN_SCRATCH * shape.hidden + in_mlp * intermediate * shape.intermediate
    in_float32 = in_mlp * shape.intermediate * FLOAT32  # what the adapter adds
    return going * load.number_bytes + in_float32


def _running(shape: ModelShape, load: Workload, tokens: int) -> int:
    """One layer's pass over `tokens` without autograd; in its MLP the widest moment is the product, or pooling it."""
    intermediate = max(READ_INTERMEDIATE * load.number_bytes, load.number_bytes + FLOAT32)
    return tokens * (READ_HIDDEN * shape.hidden * load.number_bytes + intermediate * shape.intermediate)


def _left_behind(load: Workload, going: int) -> int:
    """Of `going` bytes that came and went."""
    return int(LEFT_BEHIND * going) if load.number_bytes < FLOAT32 else 0


def _mask(shape: ModelShape, rows: Rows, queries: int) -> int:
    """Who sees whom, of `queries` tokens in all; packed rows need no mask."""
    return 0 if shape.packed else queries * (rows.longest + rows.reply // rows.count) * MASK_BYTES


def _loss(shape: ModelShape, plan: MemoryPlan, rows: Rows, word_bytes: int) -> int:
    """The logits of a chunk of reply tokens, and what becomes of them; over quantised words a piece of all tokens'."""
    tokens = rows.reply
    if shape.quantized_head:
        return min(tokens, MOST_ROWS) * (UNPACKED // shape.hidden * word_bytes + 2 * shape.hidden * FLOAT32)
    return min(plan.loss_chunk, tokens) * shape.vocabulary * word_bytes


def _unpacked(shape: ModelShape) -> int:
    """A piece of a quantised matrix as numbers."""
    return UNPACKED * UNPACKED_BYTES if shape.quantized else 0
