"""One teacher-forced forward pass over a batch, for every pooling mode, as the mode would be served.

A batch is laid out `[padding, prompt][reply, padding]`: prompts end, and replies begin, in the same column for all
rows. `response` pooling reads the prompt with the base model under `no_grad`, chunk by chunk (KV cache and pooled sums
kept, nothing else), and only the last prompt token and the reply enter autograd; where the model allows it the rows are
packed first, and no padding is computed (see `lars_agent.lars.packing`). The other modes run the whole sequence at
once. The result is the hidden states behind the last layer, not logits: see `lars_agent.ops.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.packing import act_packed, can_pack, read_packed
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
        weight: (B,) float32, how much each row's loss counts.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    reply_ids: Tensor
    reply_mask: Tensor
    weight: Tensor

    @property
    def reply_tokens(self) -> int:
        """How many tokens are predicted."""
        return int(self.reply_mask.sum())


def reply_hidden(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    batch: Batch,
    plan: MemoryPlan = DEFAULT_PLAN,
    *,
    reading_first: bool | None = None,
) -> Tensor:
    """(T, H): the hidden states that predict the T tokens of the replies, reply by reply; with `adapter` None, the base
    model's.

    `reading_first` is whether the prompt is read before the reply and without autograd, as `reads_first` says if it is
    None.
    """
    first = reads_first(adapter) if reading_first is None else reading_first
    with _levers(attachment, adapter, plan):
        if not first:
            return _one_pass(attachment, adapter, batch)[batch.reply_mask]
        if can_pack(attachment.model):
            return _packed(attachment, adapter, batch, plan.prompt_chunk)
        chunk = max(1, plan.prompt_chunk // len(batch.prompt_ids))
        return _two_passes(attachment, adapter, batch, chunk)[batch.reply_mask]


def reads_first(adapter: LarsAdapter | None) -> bool:
    """Whether nothing that learns acts on the prompt; the base model alone may have somebody else's adapter in it."""
    return not torch.is_grad_enabled() if adapter is None else adapter.config.pooling == "response"


@contextmanager
def _levers(attachment: Attachment, adapter: LarsAdapter | None, plan: MemoryPlan) -> Iterator[None]:
    """Inside, what runs with autograd keeps as little as the plan says."""
    model, capture = attachment.model, attachment.capture
    by_token = adapter is None or adapter.config.pooling == "response"
    tile = plan.mlp_tile if by_token else 0
    with ExitStack() as levers:
        if tile:
            levers.enter_context(tiled_mlps(model, tile, capture, attachment.part))
        if plan.recompute:
            levers.enter_context(recomputed_layers(model, _in_tiles(attachment, tile) if tile else capture))
        levers.enter_context(saved_activations(model, adapter, plan.saved))
        yield


def _in_tiles(attachment: Attachment, tile: int) -> Callable[[], Recall]:
    """A `capture` whose layers run their MLPs in tiles when they are recomputed, as they did before."""

    def capture() -> Recall:
        call = attachment.capture()

        @contextmanager
        def again() -> Iterator[None]:
            with call(), tiled_mlps(attachment.model, tile, attachment.capture, attachment.part):
                yield

        return again

    return capture


def reply_logits(
    attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, plan: MemoryPlan = DEFAULT_PLAN
) -> Tensor:
    """(T, V): the logits that predict each token of the replies, whole; training and judging never need them so."""
    return attachment.vocabulary.logits(reply_hidden(attachment, adapter, batch, plan))


def positions(mask: Tensor) -> Tensor:
    """(B, S) position ids that count real tokens only; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _one_pass(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch) -> Tensor:
    """The whole sequence at once, but for each reply's last token: it predicts nothing, and nothing pools it."""
    ids = torch.cat([batch.prompt_ids, batch.reply_ids[:, :-1]], dim=1)  # (B, P + R - 1)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)
    prompt = torch.cat([batch.prompt_mask, torch.zeros_like(batch.reply_mask[:, 1:])], dim=1)
    with attachment.call(adapter, AdapterMemory(), Tokens(real=mask, prompt=prompt)):
        return _run(attachment, ids, mask, None)[:, -batch.reply_ids.shape[1] :]


def _packed(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, chunk: int) -> Tensor:
    """As `_two_passes`, with no padding between the rows: (T, H)."""
    memory = AdapterMemory()
    with torch.no_grad():
        read = read_packed(attachment, adapter, memory, batch.prompt_ids, batch.prompt_mask, chunk)
    return act_packed(attachment, adapter, memory, read, _acting_ids(batch), batch.reply_mask)


def _acting_ids(batch: Batch) -> Tensor:
    """(B, R): the tokens that predict those of the replies."""
    return torch.cat([batch.prompt_ids[:, -1:], batch.reply_ids[:, :-1]], dim=1)


def _two_passes(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, chunk: int) -> Tensor:
    """The prompt through the base model without autograd, then its last token and the reply with the adapter."""
    memory = AdapterMemory()
    cache = read_prompt(attachment, adapter, memory, batch.prompt_ids, batch.prompt_mask, chunk)
    ids = _acting_ids(batch)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)  # (B, P + R - 1)
    with attachment.call(adapter, memory, Tokens(real=mask[:, -ids.shape[1] :])):
        return _run(attachment, ids, mask, _read_only(attachment, cache))


@torch.no_grad()
def read_prompt(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    chunk: int = DEFAULT_PLAN.prompt_chunk,
    room: int = 0,
) -> DynamicCache:
    """The base model's KV cache of all prompt tokens but the last, (B, P - 1) long; `memory` holds the pooled sums.

    The last token is read too, for the sums, but its keys are not kept: it is run again with the adapter acting. The
    cache has room for `room` more tokens.
    """
    before_last = prompt_ids.shape[1] - 1
    cache = reserved_cache(attachment.model.config, before_last + room)
    pieces = [(start, min(start + chunk, before_last)) for start in range(0, before_last, chunk)]
    for start, end in [*pieces, (before_last, before_last + 1)]:
        mask = prompt_mask[:, :end]
        with attachment.call(adapter, memory, Tokens(real=mask[:, start:], reading=True)):
            held = cache if end <= before_last else _read_only(attachment, cache)
            _run(attachment, prompt_ids[:, start:end], mask, held)
    return cache


def _read_only(attachment: Attachment, cache: DynamicCache) -> ReadOnlyCache:
    """`cache`, its keys copied for each call only where the model's attention can do no better."""
    return ReadOnlyCache(cache, concatenate=not reads_prefixes(attachment.model))


def _run(attachment: Attachment, ids: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
    """(B, S, H) hidden states of `ids` (B, S), the last S of the columns of `mask`; `cache` holds those before."""
    return attachment.model.base_model(  # type: ignore[no-any-return]
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask)[:, -ids.shape[1] :],
        **attachment.cached(cache),
    ).last_hidden_state
