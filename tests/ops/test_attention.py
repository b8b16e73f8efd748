"""Grouped attention against transformers' own, on models that share key heads."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lars_agent.ops.attention import GROUPED, grouped_attention, use_grouped_attention
from tests.tiny import tiny_model


class Module:
    num_key_value_groups = 3
    is_causal = True


def states(queries: int, keys: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 6, queries, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return tuple(torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize(("queries", "keys", "masked"), [(5, 5, False), (5, 5, True), (4, 9, True), (1, 9, False)])
def test_it_equals_attention_over_repeated_keys_value_and_gradients(queries, keys, masked):
    mask = torch.ones(queries, keys).tril(keys - queries).bool().expand(2, 1, queries, keys) if masked else None
    results = []
    for attend in (grouped_attention, sdpa_attention_forward):
        inputs = states(queries, keys)
        out = attend(Module(), *inputs, mask, scaling=0.3)[0]
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        results.append([out, *(x.grad for x in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "mistral"])
@torch.no_grad()
def test_a_model_computes_the_same_with_it(family):
    model = tiny_model(family)
    ids = torch.randint(3, 200, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    before = model(input_ids=ids, attention_mask=mask).logits
    assert use_grouped_attention(model)
    assert model.config._attn_implementation == GROUPED
    after = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(after[mask.bool()], before[mask.bool()], rtol=1e-5, atol=1e-5)


def test_a_model_with_another_attention_is_left_alone():
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    assert not use_grouped_attention(model)
    assert model.config._attn_implementation == "eager"


class Shapes(TorchDispatchMode):
    """Collects the shapes of all that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in (out if isinstance(out, tuple | list) else (out,)) if hasattr(x, "shape")}
        return out


def test_no_key_is_ever_repeated():
    repeated, weights = (2, 6, 9, 8), (2, 6, 4, 9)
    mask = torch.ones(2, 1, 4, 9, dtype=torch.bool)
    with Shapes() as ours:
        grouped_attention(Module(), *states(4, 9), mask)[0].sum().backward()
    with Shapes() as theirs:
        sdpa_attention_forward(Module(), *states(4, 9), mask)[0].sum().backward()
    assert repeated in theirs.seen
    assert not {repeated, weights} & ours.seen
