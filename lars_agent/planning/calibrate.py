"""Measure the costs of a training step on this device, on one layer of the model.

One decoder layer of the model's shape with random weights and a small vocabulary is timed, which takes a few seconds
and the memory of one layer; no weight of the model is read.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lars_agent.lars.config import LarsConfig
from lars_agent.lars.forward import Batch, read_prompt, reply_hidden
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter, attach
from lars_agent.memory.allocator import give_back
from lars_agent.memory.measure import rss_bytes
from lars_agent.models.quantize import quantize_in_place
from lars_agent.ops.adamw import FlatAdamW
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.losses import Vocabulary, chunked_cross_entropy
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import Bits
from lars_agent.ops.saved_tensors import Saved, saved_activations
from lars_agent.ops.tiled_mlp import mlp_of
from lars_agent.planning.costs import Costs, Line
from lars_agent.processor import OtherLoad

FEW, MANY = 64, 512  # tokens of the two points of each line
LONG_PROMPT = 2048  # tokens that attention is timed with
ROWS = (8, 32)  # of a chunk of the loss
VOCABULARY = 4096
PARAMETERS = 2**20
NUMBERS = 2**20
REPEATS = 3
MAX_OTHER_CORES = 0.3  # that other processes keep busy meanwhile
MAX_DRIFT = 1.3  # ratio of two timings of the same work
PLAIN_PLAN = MemoryPlan(recompute=False, prompt_chunk=10**6)


def costs_of(folder: Path, lars: LarsConfig, dtype: torch.dtype, weight_bits: Bits | None = None) -> tuple[Costs, bool]:
    """Measure the costs of the model in `folder` under an adapter of `lars`, with torch's current thread count.

    The second value is False if other processes kept the device busy meanwhile, so that the costs are not to be kept.
    `started_bytes` is valid for the first call in a process.
    """
    before, others = rss_bytes(), OtherLoad()
    with torch.random.fork_rng(devices=[]):
        seconds, steady = _seconds_of(folder, lars, dtype, weight_bits)
    steady = steady and others.cores() < MAX_OTHER_CORES
    gc.collect()
    give_back()
    return Costs(**seconds, started_bytes=max(0, rss_bytes() - before)), steady


def _seconds_of(
    folder: Path, lars: LarsConfig, dtype: torch.dtype, weight_bits: Bits | None
) -> tuple[dict[str, Any], bool]:
    """Return the fields of Costs that are seconds, and True if a repeated timing agrees with the first."""
    model = _one_layer(folder, dtype, weight_bits)
    adapter = LarsAdapter.for_model(model, replace(lars, top_layers=0)).train()
    attachment = attach(model)
    read = _line(lambda tokens: _read_seconds(attachment, adapter, tokens), FEW, MANY)
    forward, backward = _passes(attachment, adapter)
    attend = _read_seconds(attachment, adapter, LONG_PROMPT, chunk=MANY) - LONG_PROMPT / MANY * read.at(MANY)
    seconds = {
        "read": read,
        "attend": max(0.0, attend) / (LONG_PROMPT**2 / 2),
        "forward": forward,
        "backward": backward,
        "mlp": _line(lambda tokens: _mlp_seconds(model, tokens), FEW, MANY),
        "loss": _loss(model.config.get_text_config(decoder=True).hidden_size, dtype),
        "moments32": _moments(32),
        "moments8": _moments(8),
        "int8": _saving("int8", dtype),
        "disk": _saving("disk", dtype),
    }
    again = _read_seconds(attachment, adapter, MANY)
    return seconds, 1 / MAX_DRIFT < again / read.at(MANY) < MAX_DRIFT


def _one_layer(folder: Path, dtype: torch.dtype, weight_bits: Bits | None) -> PreTrainedModel:
    """Return a model of the same shape with one layer, random weights and a small vocabulary."""
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config(decoder=True)
    text.num_hidden_layers, text.vocab_size = 1, min(VOCABULARY, text.vocab_size)
    text.max_position_embeddings = max(2 * LONG_PROMPT, text.max_position_embeddings)
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, token, 0)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()  # type: ignore[no-untyped-call]
    if weight_bits is not None:
        quantize_in_place(model, weight_bits, dtype)
    use_grouped_attention(model)
    return model


def _batch(prompt: int, reply: int) -> Batch:
    ids, mask = torch.ones(1, prompt + reply, dtype=torch.long), torch.ones(1, prompt + reply, dtype=torch.bool)
    return Batch(ids[:, :prompt], mask[:, :prompt], ids[:, prompt:], mask[:, prompt:], torch.ones(1))


def _seconds(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs, after one to warm up."""
    work()
    timings = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        timings.append(time.perf_counter() - started)
    return min(timings)


def _line(seconds: Callable[[int], float], few: int, many: int) -> Line:
    """Return the line through the seconds for `few` and `many`, its coefficients clamped to 0."""
    at_few, at_many = seconds(few), seconds(many)
    each = max(0.0, (at_many - at_few) / (many - few))
    return Line(max(0.0, at_few - each * few), each)


def _read_seconds(attachment: Attachment, adapter: LarsAdapter, tokens: int, chunk: int | None = None) -> float:
    batch = _batch(tokens + 1, 0)
    return _seconds(
        lambda: read_prompt(attachment, adapter, AdapterMemory(), batch.prompt_ids, batch.prompt_mask, chunk or tokens)
    )


def _passes(attachment: Attachment, adapter: LarsAdapter) -> tuple[Line, Line]:
    """Time the layer's forward and backward pass with autograd."""

    def seconds(tokens: int) -> tuple[float, float]:
        run = partial(reply_hidden, attachment, adapter, _batch(1, tokens), PLAIN_PLAN)
        forward = _seconds(run)
        return forward, max(0.0, _seconds(lambda: run().float().sum().backward()) - forward)  # type: ignore[no-untyped-call]

    timings = {tokens: seconds(tokens) for tokens in (FEW, MANY)}
    adapter.zero_grad()
    return _line(lambda n: timings[n][0], FEW, MANY), _line(lambda n: timings[n][1], FEW, MANY)


@torch.no_grad()
def _mlp_seconds(model: PreTrainedModel, tokens: int) -> float:
    mlps = [mlp for module in model.modules() if (mlp := mlp_of(module)) is not None]
    states = torch.ones(1, tokens, model.config.get_text_config(decoder=True).hidden_size, dtype=model.dtype)
    return _seconds(lambda: mlps[0](states)) if mlps else 0.0


def _loss(hidden: int, dtype: torch.dtype) -> Line:
    """Time the loss for each vocabulary entry."""
    vocabulary = Vocabulary(torch.randn(VOCABULARY, hidden).to(dtype))

    def seconds(rows: int) -> float:
        states = torch.randn(rows, hidden).to(dtype).requires_grad_()
        targets = torch.zeros(rows, dtype=torch.long)
        return _seconds(partial(chunked_cross_entropy, states, vocabulary, targets, rows)) / VOCABULARY

    return _line(seconds, *ROWS)


def _moments(bits: Any) -> float:
    optimizer = FlatAdamW([torch.nn.Parameter(torch.zeros(1024, PARAMETERS // 1024))], 0.01, bits)
    return _seconds(lambda: optimizer.step(1e-3)) / PARAMETERS


def _saving(saved: Saved, dtype: torch.dtype) -> float:
    """Time saving and restoring an activation, for each number."""
    states = torch.randn(1, NUMBERS // 1024, 1024).to(dtype).requires_grad_()

    def square() -> None:
        with saved_activations(torch.nn.Identity(), None, saved):
            out = states.square()
        out.sum().backward()  # type: ignore[no-untyped-call]

    return _seconds(square) / NUMBERS
