"""Attention over a prefix that never changes and the call's own keys, a block of keys at a time.

The keys of a cached prompt and those of the reply lie in two places. Putting them behind each other copies the prompt's
keys, and the backward pass would compute gradients for them that nobody wants. Here torch's fused attention is called
on one block of keys after the other, and the results are merged by their denominators, as ring attention does (Liu et
al., arXiv 2310.01889); the gradients for a block of the prefix are dropped at once. The query heads that share a key
head are rows of one call, so keys are never repeated. Equal to attention over all keys but for rounding.

What grows with the number of keys is the caller's mask alone, one byte a query and key; a causal one needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Piece", "Prefix", "blockwise_attention", "can_attend_blockwise"]

PAIRS = 2**20  # query-key pairs whose mask is in numbers at once
LEAST_KEYS, MOST_KEYS = 64, 2048  # of one block

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Piece:
    """Tokens of one sequence in a packed call: how many there are, and where those before them lie in the prefix."""

    tokens: int
    before: slice


@dataclass(frozen=True)
class Prefix:
    """Keys and values (B, heads, P, D) of tokens before the call's own; they take no gradient.

    In a packed call `pieces` follow on one another, and each sees itself and what is before it alone.
    """

    key: Tensor
    value: Tensor
    pieces: tuple[Piece, ...] = ()

    def of(self, piece: Piece) -> Prefix:
        """What is before one piece."""
        return Prefix(self.key[:, :, piece.before], self.value[:, :, piece.before])


def can_attend_blockwise(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's fused attention gives the denominators here: on CPUs it does."""
    return device.type == "cpu" and dtype != torch.float16


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, prefix: Prefix | None = None
) -> Tensor:
    """(B, heads, S, D): `query` (B, heads, S, D) attends over the prefix's P keys and then `key` (B, heads / n, K, D).

    `mask` (B or 1, 1, S, P + K) is True where a query may look (or is to be added to the scores); None is causal, the
    queries being the last of the tokens. Where the prefix has pieces, B is 1, and each piece is causal by itself.
    """
    merged: Tensor = _Blockwise.apply(query, key, value, prefix, mask, scale)  # type: ignore[no-untyped-call]
    return merged


class _Blockwise(torch.autograd.Function):
    """Query (B, heads, S, D) over the keys of the prefix and the call's own, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: Prefix | None,
        mask: Tensor | None,
        scale: float | None,
    ) -> Tensor:
        result = torch.empty(query.shape, dtype=query.dtype)
        denominators = torch.empty(query.shape[:3])
        for own, keys, before in _pieces(query, key, prefix):
            queries, own_keys = query[:, :, own], Prefix(key[:, :, keys], value[:, :, keys])
            merged, denominator = _attend(queries, own_keys, before, mask, scale)
            result[:, :, own] = merged.view(result[:, :, own].shape)
            denominators[:, :, own] = denominator.view(denominators[:, :, own].shape)
        # As whole numbers: whoever packs saved activations (lars_agent.ops.saved_tensors) must not round these.
        ctx.save_for_backward(query, key, value, result, denominators.view(torch.int32))
        ctx.prefix, ctx.mask, ctx.scale = prefix, mask, scale
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, denominators = ctx.saved_tensors
        gradients = [torch.zeros(states.shape, dtype=states.dtype) for states in (query, key, value)]
        for own, keys, before in _pieces(query, key, ctx.prefix):
            wanted, rows, seen = (_rows(states[:, :, own], key) for states in (upstream[0], query, result))
            denominator = denominators.view(torch.float32)[:, :, own].reshape(rows.shape[:3])
            grad_rows = torch.zeros(rows.shape, dtype=torch.float32)
            grad_key, grad_value = (gradient[:, :, keys] for gradient in gradients[1:])
            own_keys = Prefix(key[:, :, keys], value[:, :, keys])
            for block, bias, place in _blocks(rows, own.stop - own.start, own_keys, before, ctx.mask):
                part, for_keys, for_values = _backward(
                    wanted, rows, block.key, block.value, seen, denominator, 0.0, False, attn_mask=bias, scale=ctx.scale
                )
                grad_rows += part
                if place is not None:
                    grad_key[:, :, place], grad_value[:, :, place] = for_keys, for_values
            gradients[0][:, :, own] = grad_rows.view(query[:, :, own].shape)
        return *gradients, None, None, None


def _pieces(query: Tensor, key: Tensor, prefix: Prefix | None) -> Iterator[tuple[slice, slice, Prefix | None]]:
    """Which of the call's queries, which of its keys, and what before these: of each piece, or of all there is."""
    if prefix is None or not prefix.pieces:
        yield slice(0, query.shape[2]), slice(0, key.shape[2]), prefix
        return
    start = 0
    for piece in prefix.pieces:
        own = slice(start, start + piece.tokens)
        yield own, own, prefix.of(piece)
        start = own.stop


def _rows(states: Tensor, key: Tensor) -> Tensor:
    """(B, G, N, D) of (B, heads, S, D): head h reads key head h // n, so N = n S rows share a key head."""
    return states.reshape(states.shape[0], key.shape[1], -1, states.shape[3])


def _attend(
    queries: Tensor, own: Prefix, before: Prefix | None, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """What queries (B, heads, S, D) see, (B, G, n S, D) float32, and the logarithms of the softmaxes' denominators."""
    rows = _rows(queries, own.key)
    merged = torch.zeros(rows.shape, dtype=torch.float32)
    denominator = torch.full(rows.shape[:3], -torch.inf)
    for block, bias, _ in _blocks(rows, queries.shape[2], own, before, mask):
        part, log_sum = _forward(rows, block.key, block.value, attn_mask=bias, scale=scale)
        total = torch.logaddexp(denominator, log_sum)
        merged.mul_((denominator - total).exp_()[..., None])
        merged.addcmul_(part.float(), (log_sum - total).exp_()[..., None])
        denominator = total
    return merged, denominator


def _blocks(
    rows: Tensor, queries: int, own: Prefix, before: Prefix | None, mask: Tensor | None
) -> Iterator[tuple[Prefix, Tensor | None, slice | None]]:
    """Blocks of keys and values, what is added to their scores, and where they lie among the call's own keys."""
    step = max(LEAST_KEYS, min(MOST_KEYS, PAIRS // (rows.shape[2] * len(rows))))
    known = 0 if before is None else before.key.shape[2]
    first, passed = known + own.key.shape[2] - queries, 0
    for states in (before, own):
        if states is None:
            continue
        length = states.key.shape[2]
        for start in range(0, length, step):
            inside = slice(start, min(start + step, length))
            keys = slice(passed + inside.start, passed + inside.stop)
            bias, seen = _bias(_causal(keys, first, queries) if mask is None else mask[..., keys], rows)
            if seen:
                block = Prefix(states.key[:, :, inside], states.value[:, :, inside])
                yield block, bias, inside if states is own else None
        passed += length


def _causal(keys: slice, first: int, queries: int) -> Tensor:
    """(1, 1, S or 1, K) of the keys of a block, where the S queries are tokens `first` to `first` + S."""
    places = torch.arange(keys.start, keys.stop)
    if keys.stop <= first:
        return torch.ones(1, 1, 1, len(places), dtype=torch.bool)
    return (places <= torch.arange(first, first + queries)[:, None])[None, None]


def _bias(mask: Tensor, rows: Tensor) -> tuple[Tensor | None, bool]:
    """What `mask` (B or 1, 1, S, K) adds to the scores of each row, None where nothing; whether any key is seen.

    A masked key gets the least number instead of minus infinity: of a row that sees nothing in this block all is then
    finite, and counts for nothing once it is merged.
    """
    if mask.dtype == torch.bool:
        if mask.all():
            return None, True
        if not mask.any():
            return None, False
        mask = torch.zeros(mask.shape, dtype=rows.dtype).masked_fill_(~mask, torch.finfo(rows.dtype).min)
    return mask.to(rows.dtype).repeat(1, 1, rows.shape[2] // mask.shape[2], 1), True
