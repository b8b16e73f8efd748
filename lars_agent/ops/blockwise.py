"""Blockwise attention over a frozen prefix (cached keys) and the call's own keys.

Concatenating cached and new keys would copy the prompt's keys and compute gradients for them. Here torch's fused
attention is called on one block of keys after the other, and the results are merged by their denominators, as in ring
attention (Liu et al., arXiv 2310.01889); gradients of prefix blocks are dropped at once. The query heads that share a
key head are rows of one call, so keys are never repeated. Equal to attention over all keys up to rounding.

Only the caller's mask grows with the number of keys, one byte for each query and key; causal attention needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

MASKED_PAIRS = 2**20  # query-key pairs whose float mask exists at once
MIN_BLOCK, MAX_BLOCK = 64, 2048  # keys
KEPT_PAIRS = 2**14  # of a causal mask that is kept: 64 KiB at most
# Up to so many query-key pairs a block's gradients are computed in float32: torch's kernel for bfloat16 takes three to
# nine times as long for those of short sequences, which feedback is made of, and as long for those of long ones.
FLOAT32_PAIRS = 2**17

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Segment:
    """One sequence in a packed call: its number of tokens, and the slice of the prefix that precedes them."""

    tokens: int
    before: slice


@dataclass(frozen=True)
class Prefix:
    """Cached keys and values (B, heads, P, D) without gradient.

    In a packed call each of the consecutive `segments` sees only its own tokens and its part of the prefix.
    """

    key: Tensor
    value: Tensor
    segments: tuple[Segment, ...] = ()


def can_attend_blockwise(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if torch's fused attention returns the denominators: on CPUs."""
    return device.type == "cpu" and dtype != torch.float16


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, prefix: Prefix | None = None
) -> Tensor:
    """Return the attention (B, heads, S, D) of `query` over the prefix's P keys and `key` (B, heads / n, K, D).

    `mask` (B or 1, 1, S, P + K) is True where a query may attend, or added to the scores; None is causal, the queries
    being the last tokens. If the prefix has segments, B is 1, and each segment is causal.
    """
    return _Blockwise.apply(query, key, value, prefix, mask, scale)  # type: ignore[no-any-return, no-untyped-call]


class _Blockwise(torch.autograd.Function):
    """Attention of a query (B, heads, S, D), segment by segment."""

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
        for own, keys, before in _segments(query, key, prefix):
            queries, own_keys = query[:, :, own], Prefix(key[:, :, keys], value[:, :, keys])
            merged, denominator = _attend(queries, own_keys, before, mask, scale)
            result[:, :, own] = merged.view(result[:, :, own].shape)
            denominators[:, :, own] = denominator.view(denominators[:, :, own].shape)
        # As integers, so that lars_agent.ops.saved_tensors does not round them.
        ctx.save_for_backward(query, key, value, result, denominators.view(torch.int32))
        ctx.prefix, ctx.mask, ctx.scale = prefix, mask, scale
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, denominators = ctx.saved_tensors
        gradients = [torch.zeros(states.shape, dtype=states.dtype) for states in (query, key, value)]
        for own, keys, before in _segments(query, key, ctx.prefix):
            upstream_rows, rows, outputs = (_rows(states[:, :, own], key) for states in (upstream[0], query, result))
            denominator = denominators.view(torch.float32)[:, :, own].reshape(rows.shape[:3])
            grad_rows = torch.zeros(rows.shape, dtype=torch.float32)
            grad_key, grad_value = (gradient[:, :, keys] for gradient in gradients[1:])
            own_keys = Prefix(key[:, :, keys], value[:, :, keys])
            for block, bias, where in _blocks(rows, own.stop - own.start, own_keys, before, ctx.mask):
                states = [upstream_rows, rows, block.key, block.value, outputs]
                if rows.shape[2] * block.key.shape[2] <= FLOAT32_PAIRS:
                    states, bias = [each.float() for each in states], None if bias is None else bias.float()
                part, for_keys, for_values = _backward(
                    *states, denominator, 0.0, False, attn_mask=bias, scale=ctx.scale
                )
                grad_rows += part
                if where is not None:
                    grad_key[:, :, where], grad_value[:, :, where] = for_keys, for_values
            gradients[0][:, :, own] = grad_rows.view(query[:, :, own].shape)
        return *gradients, None, None, None


def _segments(query: Tensor, key: Tensor, prefix: Prefix | None) -> Iterator[tuple[slice, slice, Prefix | None]]:
    """Yield the query slice, key slice and prefix of each segment, or of the whole call."""
    if prefix is None or not prefix.segments:
        yield slice(0, query.shape[2]), slice(0, key.shape[2]), prefix
        return
    start = 0
    for segment in prefix.segments:
        own = slice(start, start + segment.tokens)
        yield own, own, Prefix(prefix.key[:, :, segment.before], prefix.value[:, :, segment.before])
        start = own.stop


def _rows(states: Tensor, key: Tensor) -> Tensor:
    """Reshape (B, heads, S, D) to (B, G, N, D): head h reads key head h // n, so N = n S rows share a key head."""
    return states.reshape(states.shape[0], key.shape[1], -1, states.shape[3])


def _attend(
    queries: Tensor, own: Prefix, before: Prefix | None, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Return the attention of `queries` as (B, G, n S, D) float32, and the logs of the softmax denominators."""
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
    """Yield blocks of keys and values, their additive mask, and their slice of the call's own keys."""
    count = rows.shape[2]
    step = max(MIN_BLOCK, min(MAX_BLOCK, MASKED_PAIRS // (count * len(rows))))
    known = 0 if before is None else before.key.shape[2]
    first, passed = known + own.key.shape[2] - queries, 0
    for states in (before, own):
        if states is None:
            continue
        length = states.key.shape[2]
        for start in range(0, length, step):
            inside = slice(start, min(start + step, length))
            keys = slice(passed + inside.start, passed + inside.stop)
            if mask is None:
                is_small = count * (keys.stop - keys.start) <= KEPT_PAIRS
                causal_bias = _causal_bias if is_small else _causal_bias.__wrapped__
                bias, seen = causal_bias(keys.start, keys.stop, first, queries, count, rows.dtype)
            else:
                bias, seen = _bias(mask[..., keys], count, rows.dtype)
            if seen:
                block = Prefix(states.key[:, :, inside], states.value[:, :, inside])
                yield block, bias, inside if states is own else None
        passed += length


@lru_cache(maxsize=64)
def _causal_bias(
    start: int, stop: int, first: int, queries: int, rows: int, dtype: torch.dtype
) -> tuple[Tensor | None, bool]:
    """Return `_bias` of the causal mask of the keys `start` to `stop`, kept for the next layer."""
    return _bias(_causal(slice(start, stop), first, queries), rows, dtype)


def _causal(keys: slice, first: int, queries: int) -> Tensor:
    """Return the causal mask (1, 1, S or 1, K) of a block for the queries of tokens `first` to `first` + S."""
    positions = torch.arange(keys.start, keys.stop)
    if keys.stop <= first:
        return torch.ones(1, 1, 1, len(positions), dtype=torch.bool)
    return (positions <= torch.arange(first, first + queries)[:, None])[None, None]


def _bias(mask: Tensor, rows: int, dtype: torch.dtype) -> tuple[Tensor | None, bool]:
    """Return the additive form of `mask` (B or 1, 1, S, K), with so many rows, None for zeros, and True if any key is
    visible.

    A masked key gets the dtype's minimum instead of minus infinity, so that a fully masked row stays finite; merging
    gives it weight 0.
    """
    if mask.dtype == torch.bool:
        if mask.all():
            return None, True
        if not mask.any():
            return None, False
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return mask.to(dtype).repeat(1, 1, rows // mask.shape[2], 1), True
