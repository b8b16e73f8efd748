"""Sequence packing for `response` pooling: examples of unequal lengths in one row, without padding between them.

`read_packed` runs the prompts, `act_packed` the replies. Each example has its own positions and pooled vector and
attends only to itself. Equal to a batch padded row by row up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.attention import reads_prefixes
from lars_agent.ops.blockwise import Segment
from lars_agent.ops.kv_cache import PackedCache, keeps_every_token, reserved_cache
from lars_agent.ops.padding import padded

NO_MASK = torch.ones(1, 1, 1, 0, dtype=torch.bool)  # the attention uses the cache's segments instead


def can_pack(model: PreTrainedModel) -> bool:
    """Return True if `model` supports packing: it uses our attention and has no sliding window."""
    return reads_prefixes(model) and keeps_every_token(model.config.get_text_config(decoder=True))


@dataclass(frozen=True)
class Pack:
    """Token spans of N examples packed into one row of S tokens.

    Attributes:
        ids, positions: (1, S) int64, the tokens and their positions in their own sequences; zeros as padding.
        ends: the end of each span in the row.
    """

    ids: Tensor
    positions: Tensor
    ends: tuple[int, ...]

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, first: Tensor) -> Pack:
        """Pack the tokens of `ids` (N, W) where `mask` (N, W) is True; row n starts at position `first` (N,)."""
        positions = (first[:, None] + mask.cumsum(dim=1) - 1)[mask]
        padding = (0, padded(len(positions)) - len(positions))
        return cls(
            pad(ids[mask], padding)[None], pad(positions, padding)[None], tuple(accumulate(mask.sum(dim=1).tolist()))
        )

    @property
    def starts(self) -> tuple[int, ...]:
        """The start of each span."""
        return (0, *self.ends[:-1])


def _tokens(pack: Pack, start: int, end: int, *, reading: bool = False) -> Tokens:
    """Return the adapter's description of tokens `start` to `end` of the row."""
    column = torch.arange(start, end)
    first, last = (torch.tensor(bounds)[:, None] for bounds in (pack.starts, pack.ends))
    examples = (first <= column) & (column < last)  # (N, end - start)
    return Tokens(real=examples.any(dim=0)[None], reading=reading, examples=examples)


@torch.no_grad()
def read_packed(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    chunk: int,
) -> tuple[DynamicCache, Pack]:
    """Return the base model's KV cache of all prompts without their last tokens, and its layout; without autograd.

    `prompt_ids`, `prompt_mask` (N, P) are padded on the left. Stores the pooled sums, last tokens included, in
    `memory`.
    """
    before = prompt_mask[:, :-1]
    pack = Pack.of(prompt_ids[:, :-1], before, torch.zeros(len(before), dtype=torch.long))
    length = pack.ids.shape[1]
    cache = reserved_cache(attachment.model.config, length)
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        with attachment.call(adapter, memory, _tokens(pack, start, end, reading=True)):
            view = PackedCache(cache, _prompt_segments(pack, start, end), writes=True)
            attachment.hidden(pack.ids[:, start:end], NO_MASK, pack.positions[:, start:end], view)
    if adapter is not None:
        last = Pack(prompt_ids[:, -1:].T, before.sum(dim=1)[None], tuple(range(1, len(before) + 1)))
        with attachment.call(adapter, memory, _tokens(last, 0, len(before), reading=True)):
            attachment.hidden(last.ids, NO_MASK, last.positions, PackedCache(cache, _reply_segments(pack, last)))
    return cache, pack


def act_packed(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    read: tuple[DynamicCache, Pack],
    ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """Return the hidden states (T, H) of the T tokens of `ids` (N, R) where `mask` (N, R) is True, by example.

    They continue the prompts of `read_packed`, with the adapter acting.
    """
    cache, prompts = read
    before = torch.tensor(prompts.ends) - torch.tensor(prompts.starts)
    pack = Pack.of(ids, mask, before)
    with attachment.call(adapter, memory, _tokens(pack, 0, pack.ids.shape[1])):
        view = PackedCache(cache, _reply_segments(prompts, pack))
        hidden = attachment.hidden(pack.ids, NO_MASK, pack.positions, view)
    return hidden[0, : pack.ends[-1]]


def _prompt_segments(pack: Pack, start: int, end: int) -> list[Segment]:
    """Return the segments of tokens `start` to `end`, each preceded by the earlier tokens of its prompt."""
    bounds = [*zip(pack.starts, pack.ends, strict=True), (pack.ends[-1], pack.ids.shape[1])]
    return [
        Segment(min(last, end) - max(first, start), slice(first, max(first, start)))
        for first, last in bounds
        if max(first, start) < min(last, end)
    ]


def _reply_segments(prompts: Pack, pack: Pack) -> list[Segment]:
    """Return the segments of `pack`, each preceded by its prompt, and one for the padding."""
    spans = zip(pack.starts, pack.ends, prompts.starts, prompts.ends, strict=True)
    segments = [Segment(end - start, slice(first, last)) for start, end, first, last in spans if end > start]
    padding = pack.ids.shape[1] - pack.ends[-1]
    return [*segments, Segment(padding, slice(0, 0))] if padding else segments
