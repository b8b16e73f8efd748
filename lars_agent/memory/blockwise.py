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

__all__ = ["Piece", "Prefix", "blockwise_attention", "can_attend_blockwise", "packed_attention"]

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
    queries being the last of the tokens.
    """
    batch, heads, length, size = query.shape
    rows = query.reshape(batch, key.shape[1], -1, size)  # (B, heads / n, n S, D): head h reads key head h // n
    merged: Tensor = _Blockwise.apply(rows, key, value, prefix, mask, length, scale)  # type: ignore[no-untyped-call]
    return merged.reshape(batch, heads, length, size)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None, prefix: Prefix) -> Tensor:
    """As `blockwise_attention`, of B = 1, for the pieces of `prefix`: causal, and none sees another."""
    tokens = [piece.tokens for piece in prefix.pieces]
    queries, keys, values = (torch.split(states, tokens, dim=2) for states in (query, key, value))
    merged = [
        blockwise_attention(q, k, v, None, scale, prefix.of(piece))
        for q, k, v, piece in zip(queries, keys, values, prefix.pieces, strict=True)
    ]
    return torch.cat(merged, dim=2)


class _Blockwise(torch.autograd.Function):
    """Rows (B, G, N, D) over the keys of the prefix and the call's own."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: Prefix | None,
        mask: Tensor | None,
        length: int,
        scale: float | None,
    ) -> Tensor:
        merged = torch.zeros(rows.shape, dtype=torch.float32)
        denominator = torch.full(rows.shape[:3], -torch.inf)
        for keys, values, bias, _ in _blocks(rows, key, value, prefix, mask, length):
            part, log_sum = _forward(rows, keys, values, attn_mask=bias, scale=scale)
            total = torch.logaddexp(denominator, log_sum)
            merged.mul_((denominator - total).exp_()[..., None])
            merged.addcmul_(part.float(), (log_sum - total).exp_()[..., None])
            denominator = total
        result = merged.to(rows.dtype)
        # As whole numbers: whoever packs saved activations (lars_agent.memory.saved) must not round these.
        ctx.save_for_backward(rows, key, value, result, denominator.view(torch.int32))
        ctx.prefix, ctx.mask, ctx.length, ctx.scale = prefix, mask, length, scale
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, key, value, result, denominator = ctx.saved_tensors
        grad_rows = torch.zeros(rows.shape, dtype=torch.float32)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for keys, values, bias, place in _blocks(rows, key, value, ctx.prefix, ctx.mask, ctx.length):
            part, for_keys, for_values = _backward(
                upstream[0], rows, keys, values, result, denominator.view(torch.float32), 0.0, False,
                attn_mask=bias, scale=ctx.scale,
            )  # fmt: skip
            grad_rows += part
            if place is not None:
                grad_key[:, :, place], grad_value[:, :, place] = for_keys, for_values
        return grad_rows.to(rows.dtype), grad_key, grad_value, None, None, None, None


def _blocks(
    rows: Tensor, key: Tensor, value: Tensor, prefix: Prefix | None, mask: Tensor | None, queries: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, slice | None]]:
    """Blocks of keys and values, what is added to their scores, and where they lie among the call's own keys."""
    step = max(LEAST_KEYS, min(MOST_KEYS, PAIRS // (rows.shape[2] * len(rows))))
    before, first = 0, key.shape[2] - queries + (0 if prefix is None else prefix.key.shape[2])
    for states in (prefix, Prefix(key, value)):
        if states is None:
            continue
        length = states.key.shape[2]
        for start in range(0, length, step):
            end = min(start + step, length)
            keys = slice(before + start, before + end)
            bias, seen = _bias(_causal(keys, first, queries) if mask is None else mask[..., keys], rows)
            if seen:
                place = None if states is prefix else slice(start, end)
                yield states.key[:, :, start:end], states.value[:, :, start:end], bias, place
        before += length


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
