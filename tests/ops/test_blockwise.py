"""Blockwise attention against torch's attention over all keys at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lars_agent.ops import blockwise
from lars_agent.ops.blockwise import Prefix, blockwise_attention

KEY_HEADS, SHARED, SIZE = 2, 3, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blockwise, "MIN_BLOCK", 4)
    monkeypatch.setattr(blockwise, "MAX_BLOCK", 5)


def states(length: int, heads: int, seed: int) -> torch.Tensor:
    return torch.randn(2, heads, length, SIZE, generator=torch.Generator().manual_seed(seed))


def case(prefix: int, queries: int) -> tuple[list[torch.Tensor], Prefix]:
    taking = [states(queries, heads, heads) for heads in (KEY_HEADS * SHARED, KEY_HEADS, KEY_HEADS)]
    return taking, Prefix(states(prefix, KEY_HEADS, 7), states(prefix, KEY_HEADS, 8))


def causal(prefix: int, queries: int) -> torch.Tensor:
    return torch.ones(2, 1, queries, prefix + queries, dtype=torch.bool).tril(prefix)


def whole(query, key, value, mask, prefix):
    keys, values = (
        torch.cat(pair, 2).repeat_interleave(SHARED, 1) for pair in ((prefix.key, key), (prefix.value, value))
    )
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)


def masks(prefix: int, queries: int):
    padded = causal(prefix, queries)
    padded[0, :, :, : min(11, prefix)] = False  # two blocks of nothing and more
    windowed = causal(prefix, queries).triu(prefix - 3)
    return {"causal": causal(prefix, queries), "padded": padded, "windowed": windowed}


@pytest.mark.parametrize("kind", ["causal", "padded", "windowed"])
@pytest.mark.parametrize(("prefix", "queries"), [(17, 6), (4, 9), (30, 2)])
def test_it_equals_attention_over_all_keys_value_and_gradients(prefix, queries, kind):
    mask, results = masks(prefix, queries)[kind], []
    for attend in (lambda *x: blockwise_attention(*x[:3], x[3], 0.3, x[4]), whole):
        inputs, before = case(prefix, queries)
        out = attend(*(x.requires_grad_() for x in inputs), mask, before)
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        results.append([out.detach(), *(x.grad for x in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_a_mask_it_is_causal():
    inputs, before = case(9, 4)
    torch.testing.assert_close(blockwise_attention(*inputs, None, 0.3, before), whole(*inputs, causal(9, 4), before))


def test_a_row_that_sees_nothing_spoils_neither_the_others_nor_the_gradients():
    inputs, before = case(9, 4)
    mask = causal(9, 4)
    mask[1, :, 2] = False
    out = blockwise_attention(*(x.requires_grad_() for x in inputs), mask, 0.3, before)
    out[:, :, [0, 1, 3]].sum().backward()
    seen = [0, 1, 3]
    torch.testing.assert_close(out[:, :, seen], whole(*inputs, causal(9, 4), before)[:, :, seen], rtol=1e-5, atol=1e-5)
    assert all(x.grad.isfinite().all() for x in inputs)


def test_the_prefix_gets_no_gradient_and_is_not_saved():
    inputs, before = case(200, 3)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        out = blockwise_attention(*(x.requires_grad_() for x in inputs), causal(200, 3), 0.3, before)
    out.sum().backward()
    assert before.key.grad is None
    assert sum(saved) < before.key.numel()
