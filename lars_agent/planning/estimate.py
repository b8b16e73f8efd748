"""Predict the peak bytes of a training job, term by term, before anything is loaded.

The peak is the permanently resident memory (program, weights, adapter, gradients, optimizer) plus that of the largest
pass: its KV cache, pooled vectors and saved activations, and the largest of its scratch spaces, of which only one
exists at a time. The terms follow from the shapes; the constants below are library overhead. `bench planner` measures
the error.
"""

from __future__ import annotations

from dataclasses import dataclass

from lars_agent.ops.losses import MAX_ROWS
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import DEQUANTIZED
from lars_agent.planning.shape import ModelShape
from lars_agent.planning.workload import BatchSize, PromptLengths, Workload, largest

FLOAT32 = 4
MOMENT_BYTES = {32: 8.0, 8: 2.0625}  # of both moments of one parameter; in 8 bits with a scale for each block of 128
RETAINED_BYTES = 10_000_000  # fragments that the allocator keeps, and the job's needs beside its steps
LAYER_BYTES = 1_000_000  # objects, small tensors and fragmentation of one layer
INT8_LAYER_BYTES = 2_000_000  # the same with activations saved in 8 bits
NORMS = 2  # of a layer; each keeps its input in float32
HIDDEN_SCRATCH = 8  # (tokens, H) temporaries of one layer's backward pass, beyond its saved activations
INTERMEDIATE_SCRATCH = 3  # (tokens, I) temporaries, likewise
FORWARD_HIDDEN, FORWARD_INTERMEDIATE = 5, 3  # the same of a layer without autograd
MASK_BYTES = 3  # of one query and key, while transformers builds the mask
LOSS_BYTES, DIVERGENCE_BYTES = 10, 24  # of one row and vocabulary entry in a chunked loss
DEQUANTIZED_BYTES = 6  # of one weight while a block of a quantized matrix is multiplied
UNRETURNED = 2.3  # factor on temporaries in 16 bits: copies made by such products and not yet reused or returned


@dataclass(frozen=True)
class Estimate:
    """Predicted bytes of each term."""

    program: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    kv_cache: int
    pooled: int
    activations: int
    scratch: int
    kept_prompts: int = 0

    @property
    def peak_bytes(self) -> int:
        """The sum of all terms."""
        return sum(vars(self).values())


def estimate(shape: ModelShape, load: Workload, plan: MemoryPlan) -> Estimate:
    """Return the bytes of a job of `shape` under `plan`."""
    passes = [
        _pass(shape, load, plan, batch, LOSS_BYTES)
        for batch in largest(load.steps, plan.micro_batch, packed=shape.packed)
    ]
    for batch in largest(load.rehearsals, None, packed=shape.packed):
        passes.append(_pass(shape, load, plan, batch, DIVERGENCE_BYTES))
    for batch in largest(load.evaluations, plan.micro_batch, packed=shape.packed):
        passes.append(_pass(shape, load, plan, batch, LOSS_BYTES, autograd=False))
    peak = max(passes, key=lambda terms: sum(terms.values()))
    layer_bytes = INT8_LAYER_BYTES if plan.saved == "int8" else LAYER_BYTES
    return Estimate(
        program=load.program_bytes + RETAINED_BYTES + layer_bytes * shape.adapted_layers,
        weights=shape.weight_bytes - load.unread_bytes,
        adapter=shape.adapter_parameters * FLOAT32,
        gradients=shape.adapter_parameters * FLOAT32,
        optimizer=int(shape.adapter_parameters * MOMENT_BYTES[plan.optimizer_bits]),
        kept_prompts=sum(kept_bytes(shape, load, group) for group in load.prompts[: plan.kept_prompts]),
        **peak,
    )


def kept_bytes(shape: ModelShape, load: Workload, group: PromptLengths) -> int:
    """Return the bytes of a group of prompts that is kept: keys and values, sums, and the base model's states."""
    pooled = shape.pooled_in * (FLOAT32 + load.number_bytes)
    read = sum(_token_bytes(shape, load) * (tokens - 1) + pooled for tokens in group.prompts)
    return read + group.base_tokens * shape.hidden * load.number_bytes


def _token_bytes(shape: ModelShape, load: Workload) -> int:
    """Return the bytes of a token's keys and values in every layer."""
    return 2 * shape.layers * shape.key_width * load.number_bytes


def _pass(
    shape: ModelShape, load: Workload, plan: MemoryPlan, batch: BatchSize, entry_bytes: int, *, autograd: bool = True
) -> dict[str, int]:
    """Return the terms of a forward and (with `autograd`) a backward pass over a batch."""
    adapted = batch.reply if shape.response else batch.prompt + batch.reply  # tokens in one pass
    temporary = _backward_scratch(shape, load, plan, adapted) if autograd else _forward_scratch(shape, load, adapted)
    saved = adapted * _layer_bytes(shape, load, plan) if autograd and plan.recompute else 0
    layer = saved + temporary + _mask(shape, batch, adapted)
    activations = _activations(shape, load, plan, adapted) if autograd else 0
    largest_scratch = max(layer, _loss(shape, plan, batch, entry_bytes))
    chunk = min(plan.prompt_chunk, batch.prompt) if shape.response else 0  # other poolings have no prompt pass
    prompt_temporary = _forward_scratch(shape, load, chunk)
    prompt_scratch = prompt_temporary + _mask(shape, batch, chunk)  # while no activations are saved
    unreturned = int(UNRETURNED * (prompt_temporary + temporary)) if load.number_bytes < FLOAT32 else 0
    dequantized = DEQUANTIZED * DEQUANTIZED_BYTES if shape.quantized else 0
    return {
        "kv_cache": _kv_cache(shape, load, batch),
        # In float32: each adapted layer's prompt sum, last token, pooled vector and bias.
        "pooled": batch.count * (3 * shape.adapted_in + 2 * shape.adapted_out) * FLOAT32,
        "activations": activations,
        "scratch": max(largest_scratch, prompt_scratch - activations) + dequantized + unreturned,
    }


def _kv_cache(shape: ModelShape, load: Workload, batch: BatchSize) -> int:
    """Return the bytes of the prompt's keys and values in every layer (`response` pooling)."""
    if not shape.response:
        return 0
    tokens = batch.prompt if shape.window is None else min(batch.prompt, batch.count * shape.window)
    return tokens * _token_bytes(shape, load)


def _activations(shape: ModelShape, load: Workload, plan: MemoryPlan, tokens: int) -> int:
    """Return the bytes that autograd saves: the layers' inputs, or, without recomputation, all activations.

    The ranks of the per-token term are never compressed or moved to disk.
    """
    if plan.recompute:
        per_token = _saved_bytes(shape.hidden * load.number_bytes, shape.hidden, plan)
        return shape.adapted_layers * tokens * per_token
    per_token = _saved_bytes(_layer_bytes(shape, load, plan), _layer_numbers(shape, plan), plan)
    return shape.adapted_layers * tokens * per_token + tokens * 2 * shape.ranks * FLOAT32


def _saved_bytes(whole: int, numbers: int, plan: MemoryPlan) -> int:
    """Return the bytes in memory of `numbers` saved activations that take `whole` bytes uncompressed."""
    return {"whole": whole, "int8": numbers, "disk": 0}[plan.saved]


def _layer_numbers(shape: ModelShape, plan: MemoryPlan) -> int:
    """Return the count of activations saved for one token of one layer.

    The norms' inputs, queries, keys, values, the attention's output, and three of the MLP, or its input if tiled.
    """
    mlp = shape.hidden if plan.mlp_tile else 3 * shape.intermediate
    return NORMS * shape.hidden + 2 * shape.query_width + 2 * shape.key_width + mlp


def _layer_bytes(shape: ModelShape, load: Workload, plan: MemoryPlan) -> int:
    """Return the bytes of `_layer_numbers`; norms compute in float32."""
    in_float32 = NORMS * shape.hidden
    return in_float32 * FLOAT32 + (_layer_numbers(shape, plan) - in_float32) * load.number_bytes


def _backward_scratch(shape: ModelShape, load: Workload, plan: MemoryPlan, tokens: int) -> int:
    """Return the bytes of the temporaries of one layer's backward pass."""
    in_mlp = min(tokens, plan.mlp_tile) if plan.mlp_tile and shape.response else tokens
    intermediate = INTERMEDIATE_SCRATCH + (3 if plan.mlp_tile else 0)
    numbers = tokens * HIDDEN_SCRATCH * shape.hidden + in_mlp * intermediate * shape.intermediate
    in_float32 = in_mlp * shape.intermediate * FLOAT32  # the adapter's output
    return numbers * load.number_bytes + in_float32


def _forward_scratch(shape: ModelShape, load: Workload, tokens: int) -> int:
    """Return the bytes of one layer's temporaries without autograd; its MLP peaks in the product or in pooling it."""
    intermediate = max(FORWARD_INTERMEDIATE * load.number_bytes, load.number_bytes + FLOAT32)
    return tokens * (FORWARD_HIDDEN * shape.hidden * load.number_bytes + intermediate * shape.intermediate)


def _mask(shape: ModelShape, batch: BatchSize, queries: int) -> int:
    """Return the bytes of the attention mask of `queries` tokens; packed batches have none."""
    return 0 if shape.packed else queries * (batch.longest + batch.reply // batch.count) * MASK_BYTES


def _loss(shape: ModelShape, plan: MemoryPlan, batch: BatchSize, entry_bytes: int) -> int:
    """Return the bytes of the chunked loss: a chunk of tokens, or with a quantized head a block of the vocabulary."""
    tokens = batch.reply
    if shape.quantized_head:
        return min(tokens, MAX_ROWS) * (DEQUANTIZED // shape.hidden * entry_bytes + 2 * shape.hidden * FLOAT32)
    return min(plan.loss_chunk, tokens) * shape.vocabulary * entry_bytes
