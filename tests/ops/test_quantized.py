"""Quantised weights against the numbers that they mean."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lars_agent.ops import losses, quantized
from lars_agent.ops.losses import Vocabulary, chunked_cross_entropy, chunked_divergence
from lars_agent.ops.quantized import (
    QuantizedEmbedding,
    QuantizedLinear,
    quantize,
    quantized_bytes,
    times,
    times_transposed,
)


def weight(rows: int = 50, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def numbers(matrix) -> torch.Tensor:
    return matrix.rows(slice(None), torch.float32)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(quantized, "DEQUANTIZED", 64 * 7)
    monkeypatch.setattr(losses, "MAX_ROWS", 2)


def test_in_8_bits_no_weight_is_further_off_than_its_rows_largest_over_254():
    error = (numbers(quantize(weight(), 8)) - weight()).abs()
    assert (error <= weight().abs().amax(1, keepdim=True) * (1 / 254 + 2**-8)).all()  # and what bfloat16 scales add


def test_in_4_bits_no_weight_is_further_off_than_its_blocks_range_over_30():
    blocks = weight().view(50, 2, 32)
    error = (numbers(quantize(weight(), 4)).view(50, 2, 32) - blocks).abs()
    span = blocks.amax(2, keepdim=True) - blocks.amin(2, keepdim=True)
    assert (error <= span * (1 / 30 + 2**-7)).all()


def test_in_16_bits_weights_are_those_of_bfloat16_and_their_products_exact():
    stored = weight().bfloat16().float()
    matrix, x = quantize(weight(), 16), torch.randn(3, 64)
    assert torch.equal(numbers(matrix), stored)
    torch.testing.assert_close(times(matrix, x), x @ stored.T)
    error = torch.randn(3, 50)
    torch.testing.assert_close(times_transposed(matrix, error), error @ stored)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_what_is_on_the_grid_already_stays_as_it_is(bits):
    once = numbers(quantize(weight().bfloat16().float(), bits))
    assert (numbers(quantize(once, bits)) - once).abs().max() <= 0.01 * once.abs().max()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_matrix_of_nothing_is_nothing(bits):
    assert not numbers(quantize(torch.zeros(3, 32), bits)).any()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_it_takes_the_bytes_that_are_said(bits):
    matrix = quantize(weight(), bits)
    assert sum(part.nbytes for part in quantized.parts(matrix).values()) == quantized_bytes((50, 64), bits)
    assert matrix.shape == (50, 64)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_products_and_gradients_are_those_of_the_numbers(bits):
    layer = QuantizedLinear(quantize(weight(), bits), torch.arange(50.0), torch.float32)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = layer(ours), F.linear(theirs, numbers(layer.matrix), layer.bias)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-4)
    assert torch.equal(layer.weight, numbers(layer.matrix))


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_an_embedding_gives_the_rows(bits):
    embedding = QuantizedEmbedding(quantize(weight(), bits), None, torch.float32)
    ids = torch.tensor([[3, 49], [0, 3]])
    assert torch.equal(embedding(ids), F.embedding(ids, embedding.weight))


EXTRAS = [{}, {"scale": 0.25}, {"softcap": 2.0, "scale": 3.0}, {"bias": torch.arange(50.0) / 50}]


@pytest.mark.parametrize("extra", EXTRAS, ids=str)
@pytest.mark.parametrize("kind", ["cross entropy", "divergence"])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_losses_over_a_quantised_vocabulary_are_those_of_the_numbers(bits, kind, extra):
    matrix, targets = quantize(weight(), bits), torch.tensor([3, 0, 49])
    hidden, base = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)) / 4
    results = []
    for vocabulary in (Vocabulary(matrix, **extra), Vocabulary(numbers(matrix), **extra)):
        taking = hidden.clone().requires_grad_()
        if kind == "cross entropy":
            loss = chunked_cross_entropy(taking, vocabulary, targets, chunk=2)
        else:
            loss = chunked_divergence(taking, base, vocabulary, chunk=2)
        (loss * torch.arange(1.0, 4.0)).sum().backward()
        results.append((loss.detach(), taking.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the largest floating tensor that any operator made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_weight_is_never_whole(bits):
    matrix = quantize(weight(), bits)
    with Largest() as largest:
        times_transposed(matrix, times(matrix, torch.ones(1, 64)))
    assert largest.numel <= 64 * 7 < weight().numel()
