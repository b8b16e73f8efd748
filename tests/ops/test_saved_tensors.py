"""Activations in 8 bits and on the disk: what comes back, what is left alone, and what is held meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lars_agent.errors import DiskFull
from lars_agent.lars import attach
from lars_agent.ops import saved_tensors as saved
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.saved_tensors import saved_activations
from lars_agent.training.batches import collate
from lars_agent.training.evaluate import token_nll
from tests.lars.test_serving import adapter_for, rows
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def nothing_is_too_small(monkeypatch):
    monkeypatch.setattr(saved, "MIN_NUMBERS", 1)


def activations(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)


def gradient(how, x, model=None):
    """The gradient of a product of what `x` becomes with itself, for which autograd keeps it."""
    model = model or torch.nn.Linear(2, 2)
    with saved_activations(model, None, how):
        y = x * 1.0
        out = (y * y).sum()
    out.backward()
    return x.grad


def test_the_disk_gives_back_the_same_bytes():
    x = activations(3, 5, 7)
    assert torch.equal(gradient("disk", x), 2 * x)


def test_8_bits_are_off_by_a_254th_of_each_tokens_largest_at_most():
    x = activations(3, 50, 64)
    error = (gradient("int8", x) / 2 - x).abs()
    assert (error <= x.abs().amax(-1, keepdim=True) / 254 * 1.001).all()
    assert error.max() > 0


def test_weights_and_logarithms_of_denominators_are_left_where_they_lie():
    model = tiny_model("llama")
    adapter = adapter_for(model, "response")
    worth = saved._selector(model, adapter)
    assert not worth(model.lm_head.weight.t())
    assert not worth(adapter.layers[0].down.detach())
    assert not worth(torch.zeros(2, model.config.num_attention_heads, 9))
    assert not worth(torch.zeros(2, 9, 8, dtype=torch.long))
    assert worth(torch.zeros(2, 9, 8))


def test_the_file_has_no_name_and_goes_with_what_is_in_it(tmp_path):
    def held() -> int:
        return sum(
            str(file.readlink()).startswith(str(tmp_path))
            for file in Path("/proc/self/fd").iterdir()
            if file.is_symlink()
        )

    x = activations(4, 8, 8)
    with saved_activations(torch.nn.Linear(2, 2), None, "disk", tmp_path):
        y = x * 1.0
        out = (y * y).sum()
    assert (list(tmp_path.iterdir()), held()) == ([], 1)
    out.backward()
    del out, y
    assert held() == 0


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(DiskFull, match="free some space"),
        saved_activations(torch.nn.Linear(2, 2), None, "disk", tmp_path),
    ):
        (activations(4, 8, 8) * 1.0).exp()


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("pooling", ["sequence", "response"])
def test_training_gradients_with_activations_in_8_bits_point_the_same_way(pooling, recompute):
    model, directions = tiny_model("llama"), []
    for how in ("whole", "int8"):
        adapter = adapter_for(model, pooling)
        plan = MemoryPlan(recompute=recompute, saved=how)
        token_nll(attach(model), adapter, collate(rows(), 0), plan).sum().backward()
        directions.append(torch.cat([p.grad.flatten() for p in adapter.parameters() if p.grad is not None]))
    assert not torch.equal(*directions)
    assert torch.cosine_similarity(*directions, dim=0) > 0.999
