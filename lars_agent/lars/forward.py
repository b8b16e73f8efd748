"""Teacher-forced forward pass over a batch, equal to serving, for every pooling.

A batch is laid out `[padding, prompt][reply, padding]`: prompts end, and replies begin, in the same column for all
rows. With `response` pooling only the last prompt token and the reply enter autograd, packed if the model supports it.
The result is the last layer's hidden states, not logits: see `lars_agent.ops.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.packing import Pack, act_packed, can_pack, read_packed
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.attention import reads_prefixes
from lars_agent.ops.kv_cache import ReadOnlyCache, reserved_cache
from lars_agent.ops.memory_plan import DEFAULT_PLAN, MemoryPlan
from lars_agent.ops.recompute import Recall, recomputed_layers
from lars_agent.ops.saved_tensors import saved_activations
from lars_agent.ops.tiled_mlp import tiled_mlps


@dataclass(frozen=True)
class Batch:
    """Prompts and the replies to predict, as token ids.

    Attributes:
        prompt_ids, prompt_mask: (B, P) int64 and bool; padding on the left, masked out.
        reply_ids, reply_mask: (B, R) int64 and bool; padding on the right, masked out. End of turn included.
        weight: (B,) float32, weight of each row's loss.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    reply_ids: Tensor
    reply_mask: Tensor
    weight: Tensor

    @property
    def reply_tokens(self) -> int:
        """Number of predicted tokens."""
        return int(self.reply_mask.sum())


@dataclass(frozen=True)
class ReadPrompts:
    """The prompts of a batch as the base model reads them: its KV cache, and the pooled sums of an adapter's layers."""

    memory: AdapterMemory
    cache: DynamicCache
    pack: Pack | None  # None where the cache has a row for each prompt


def reply_hidden(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    batch: Batch,
    plan: MemoryPlan = DEFAULT_PLAN,
    prompts: ReadPrompts | None = None,
) -> Tensor:
    """Return the hidden states (T, H) that predict the T reply tokens, row by row; `adapter` None is the base model.

    `prompts` are those of `batch`, if they have been read; else they are read now, before the reply or with it.
    """
    if prompts is None and reads_first(adapter):
        prompts = read_prompts(attachment, [adapter], batch, plan)
    with _levers(attachment, adapter, plan):
        if prompts is None:
            return _one_pass(attachment, adapter, batch)[batch.reply_mask]
        memory, reply_ids = prompts.memory.fork(), torch.cat([batch.prompt_ids[:, -1:], batch.reply_ids[:, :-1]], dim=1)
        if prompts.pack is not None:
            return act_packed(attachment, adapter, memory, (prompts.cache, prompts.pack), reply_ids, batch.reply_mask)
        mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)  # (B, P + R - 1)
        with attachment.call(adapter, memory, Tokens(real=mask[:, -reply_ids.shape[1] :])):
            return hidden_of(attachment, reply_ids, mask, read_only(attachment, prompts.cache))[batch.reply_mask]


def read_prompts(
    attachment: Attachment, adapters: Sequence[LarsAdapter | None], batch: Batch, plan: MemoryPlan = DEFAULT_PLAN
) -> ReadPrompts | None:
    """Return the prompts of `batch`, read once for all `adapters`; None if an adapter has to read them on its own.

    Without autograd. With `response` pooling they do not depend on the adapter, only on the layers that it pools for.
    """
    acting = [adapter for adapter in adapters if adapter is not None]
    pooled = {frozenset(adapter.by_name) for adapter in acting}
    if len(pooled) > 1 or not all(adapter.config.pooling == "response" for adapter in acting):
        return None
    adapter, memory = acting[0] if acting else None, AdapterMemory()
    if can_pack(attachment.model):
        read = read_packed(attachment, adapter, memory, batch.prompt_ids, batch.prompt_mask, plan.prompt_chunk)
        return ReadPrompts(memory, *read)
    chunk = max(1, plan.prompt_chunk // len(batch.prompt_ids))
    return ReadPrompts(
        memory, read_prompt(attachment, adapter, memory, batch.prompt_ids, batch.prompt_mask, chunk), None
    )


def reads_first(adapter: LarsAdapter | None) -> bool:
    """Return True if the prompt needs no autograd. The base model's may, recomputed within another adapter's step."""
    return not torch.is_grad_enabled() if adapter is None else adapter.config.pooling == "response"


@contextmanager
def _levers(attachment: Attachment, adapter: LarsAdapter | None, plan: MemoryPlan) -> Iterator[None]:
    """Apply the plan's memory levers to everything computed with autograd inside the block."""
    model, capture = attachment.model, attachment.capture
    by_token = adapter is None or adapter.config.pooling == "response"
    tile = plan.mlp_tile if by_token else 0
    with ExitStack() as levers:
        if tile:
            levers.enter_context(tiled_mlps(model, tile, capture, attachment.part))
        if plan.recompute:
            levers.enter_context(recomputed_layers(model, _tiled_capture(attachment, tile) if tile else capture))
        levers.enter_context(saved_activations(model, adapter, plan.saved))
        yield


def _tiled_capture(attachment: Attachment, tile: int) -> Callable[[], Recall]:
    """Return a `capture` whose recomputed layers tile their MLPs too."""

    def capture() -> Recall:
        repeat_call = attachment.capture()

        @contextmanager
        def recall() -> Iterator[None]:
            with repeat_call(), tiled_mlps(attachment.model, tile, attachment.capture, attachment.part):
                yield

        return recall

    return capture


def reply_logits(
    attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, plan: MemoryPlan = DEFAULT_PLAN
) -> Tensor:
    """Return the logits (T, V) that predict the reply tokens; training and evaluation use chunked losses instead."""
    return attachment.vocabulary.logits(reply_hidden(attachment, adapter, batch, plan))


def positions(mask: Tensor) -> Tensor:
    """Return position ids (B, S) that count real tokens only; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _one_pass(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch) -> Tensor:
    """Run the whole sequence except each reply's last token, which predicts nothing and is not pooled."""
    ids = torch.cat([batch.prompt_ids, batch.reply_ids[:, :-1]], dim=1)  # (B, P + R - 1)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)
    prompt = torch.cat([batch.prompt_mask, torch.zeros_like(batch.reply_mask[:, 1:])], dim=1)
    with attachment.call(adapter, AdapterMemory(), Tokens(real=mask, prompt=prompt)):
        return hidden_of(attachment, ids, mask, None)[:, -batch.reply_ids.shape[1] :]


@torch.no_grad()
def read_prompt(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    chunk: int = DEFAULT_PLAN.prompt_chunk,
    extra: int = 0,
) -> DynamicCache:
    """Return the base model's KV cache of all prompt tokens but the last, and store the pooled sums in `memory`.

    The last token is run too, for the sums, but its keys are discarded: it is run again with the adapter acting. The
    cache is preallocated for `extra` more tokens.
    """
    before_last = prompt_ids.shape[1] - 1
    cache = reserved_cache(attachment.model.config, before_last + extra)
    pieces = [(start, min(start + chunk, before_last)) for start in range(0, before_last, chunk)]
    for start, end in [*pieces, (before_last, before_last + 1)]:
        mask = prompt_mask[:, :end]
        with attachment.call(adapter, memory, Tokens(real=mask[:, start:], reading=True)):
            view = cache if end <= before_last else read_only(attachment, cache)
            hidden_of(attachment, prompt_ids[:, start:end], mask, view)
    return cache


def read_only(attachment: Attachment, cache: DynamicCache) -> ReadOnlyCache:
    """Return a read-only view of `cache`; keys are copied for each call only if the model's attention requires it."""
    return ReadOnlyCache(cache, concatenate=not reads_prefixes(attachment.model))


def hidden_of(attachment: Attachment, ids: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
    """Return hidden states (B, S, H) of `ids` (B, S), the last S columns of `mask`; `cache` holds those before."""
    return attachment.hidden(ids, mask.long(), positions(mask)[:, -ids.shape[1] :], cache)
