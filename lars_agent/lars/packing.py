"""Several examples of unequal lengths behind one another in one row, so that no padding is computed or kept.

First all prompts without their last tokens, chunk by chunk and without autograd, into one KV cache; then the last
tokens, for the pooled vectors; then each example's last prompt token with its reply, with the adapter acting. Each
example has its own positions, its own pooled vector, and sees itself alone. The row as a whole is padded to one of a
few widths. Equal to a batch padded row by row but for rounding.
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

__all__ = ["Pack", "act_packed", "can_pack", "read_packed"]


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `model` can tell packed examples apart: its attention is ours, and no layer has a sliding window."""
    return reads_prefixes(model) and keeps_every_token(model.config.get_text_config(decoder=True))


@dataclass(frozen=True)
class Pack:
    """Parts of N examples behind one another, as one row of S tokens.

    Attributes:
        ids, places: (1, S) int64, the tokens and their positions in their own sequences; zeros at the row's end.
        ends: where each of the N parts ends in the row.
    """

    ids: Tensor
    places: Tensor
    ends: tuple[int, ...]

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, first: Tensor) -> Pack:
        """The tokens of `ids` (N, W) where `mask` (N, W) is True; those of row n come `first` (N,) and on."""
        places = (first[:, None] + mask.cumsum(dim=1) - 1)[mask]
        room = (0, padded(len(places)) - len(places))
        return cls(pad(ids[mask], room)[None], pad(places, room)[None], tuple(accumulate(mask.sum(dim=1).tolist())))

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each part begins."""
        return (0, *self.ends[:-1])


def _tokens(pack: Pack, start: int, end: int, *, reading: bool = False) -> Tokens:
    """Tokens `start` to `end` of the row, as the adapter is told of them."""
    column = torch.arange(start, end)
    first, last = (torch.tensor(bounds)[:, None] for bounds in (pack.starts, pack.ends))
    examples = (first <= column) & (column < last)  # (N, end - start)
    return Tokens(real=examples.any(dim=0)[None], reading=reading, examples=examples)


def read_packed(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    chunk: int,
) -> tuple[DynamicCache, Pack]:
    """The base model's KV cache of all prompts without their last tokens, and what lies where in it.

    `prompt_ids`, `prompt_mask` (N, P) are padded on the left. `memory` then holds the pooled sums, of the last tokens
    too.
    """
    before = prompt_mask[:, :-1]
    pack = Pack.of(prompt_ids[:, :-1], before, torch.zeros(len(before), dtype=torch.long))
    length = pack.ids.shape[1]
    cache = reserved_cache(attachment.model.config, length)
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        with attachment.call(adapter, memory, _tokens(pack, start, end, reading=True)):
            held = PackedCache(cache, _pieces_read(pack, start, end), writes=True)
            _run(attachment, pack.ids[:, start:end], pack.places[:, start:end], held)
    if adapter is not None:
        last = Pack(prompt_ids[:, -1:].T, before.sum(dim=1)[None], tuple(range(1, len(before) + 1)))
        with attachment.call(adapter, memory, _tokens(last, 0, len(before), reading=True)):
            _run(attachment, last.ids, last.places, PackedCache(cache, _pieces_behind(pack, last)))
    return cache, pack


def act_packed(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    memory: AdapterMemory,
    read: tuple[DynamicCache, Pack],
    ids: Tensor,
    mask: Tensor,
) -> Tensor:
    """(T, H): the hidden states of the T tokens that `mask` (N, R) marks in `ids` (N, R), example by example.

    They follow on what `read_packed` has read, with the adapter acting.
    """
    cache, prompts = read
    before = torch.tensor(prompts.ends) - torch.tensor(prompts.starts)
    pack = Pack.of(ids, mask, before)
    with attachment.call(adapter, memory, _tokens(pack, 0, pack.ids.shape[1])):
        hidden = _run(attachment, pack.ids, pack.places, PackedCache(cache, _pieces_behind(prompts, pack)))
    return hidden[0, : pack.ends[-1]]


def _pieces_read(pack: Pack, start: int, end: int) -> list[Segment]:
    """Tokens `start` to `end` of the prompts: each piece sees what was read of its own prompt before."""
    bounds = [*zip(pack.starts, pack.ends, strict=True), (pack.ends[-1], pack.ids.shape[1])]
    return [
        Segment(min(last, end) - max(first, start), slice(first, max(first, start)))
        for first, last in bounds
        if max(first, start) < min(last, end)
    ]


def _pieces_behind(prompts: Pack, pack: Pack) -> list[Segment]:
    """The parts in `pack`, each behind its own prompt, and what fills the row."""
    parts = zip(pack.starts, pack.ends, prompts.starts, prompts.ends, strict=True)
    pieces = [Segment(end - start, slice(first, last)) for start, end, first, last in parts if end > start]
    filling = pack.ids.shape[1] - pack.ends[-1]
    return [*pieces, Segment(filling, slice(0, 0))] if filling else pieces


def _run(attachment: Attachment, ids: Tensor, places: Tensor, cache: PackedCache) -> Tensor:
    """(1, S, H) hidden states of `ids`. The mask says nothing: the attention goes by the cache's pieces."""
    return attachment.model.base_model(  # type: ignore[no-any-return]
        input_ids=ids,
        attention_mask=torch.ones(1, 1, 1, 0, dtype=torch.bool),
        position_ids=places,
        **attachment.cached(cache),
    ).last_hidden_state
