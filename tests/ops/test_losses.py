"""Chunked losses against torch's own, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lars_agent.ops.losses import Vocabulary, chunked_cross_entropy, chunked_divergence


def rows(dtype: torch.dtype = torch.float32, tokens: int = 13, width: int = 8, words: int = 50):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype)
    weight = torch.randn(words, width, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, words, (tokens,), generator=generator), torch.rand(tokens)


def head(hidden, weight, bias, scale=1.0, softcap=None):
    logits = scale * F.linear(hidden, weight, bias)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("extra", [{}, {"scale": 0.25}, {"softcap": 2.0, "scale": 3.0}])
def test_cross_entropy_equals_the_whole_computation_whatever_the_chunk(chunk, with_bias, extra):
    hidden, weight, targets, scale = rows()
    bias = torch.randn(len(weight)) if with_bias else None
    ours, whole = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    nll = chunked_cross_entropy(ours, Vocabulary(weight, bias, **extra), targets, chunk)
    expected = F.cross_entropy(head(whole, weight, bias, **extra), targets, reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-6, atol=1e-6)
    (nll * scale).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(ours.grad, whole.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("extra", [{}, {"scale": 0.25}, {"softcap": 2.0, "scale": 3.0}])
def test_divergence_equals_the_whole_computation_whatever_the_chunk(chunk, with_bias, extra):
    hidden, weight, _, scale = rows()
    base = hidden + 0.3 * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    bias = torch.randn(len(weight)) if with_bias else None
    ours, whole = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    divergence = chunked_divergence(ours, base, Vocabulary(weight, bias, **extra), chunk)
    q, p = (head(x, weight, bias, **extra).log_softmax(-1) for x in (base, whole))
    expected = F.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(divergence, expected, rtol=1e-5, atol=1e-5)
    (divergence * scale).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(ours.grad, whole.grad, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_head_gives_float32_losses_near_the_float32_ones():
    hidden, weight, targets, _ = rows(torch.bfloat16)
    nll = chunked_cross_entropy(hidden.requires_grad_(), Vocabulary(weight), targets)
    assert nll.dtype == torch.float32
    nll.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    exact = F.cross_entropy(hidden.float() @ weight.float().T, targets, reduction="none")
    torch.testing.assert_close(nll, exact, rtol=2e-2, atol=5e-2)


class LargestOutput(TorchDispatchMode):
    """Remembers the largest tensor that any operator returned, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_of_all_logits_is_ever_made():
    hidden, weight, targets, _ = rows(tokens=256, width=16, words=4096)
    with LargestOutput() as seen:
        chunked_cross_entropy(hidden.requires_grad_(), Vocabulary(weight), targets, chunk=8).sum().backward()
    assert seen.elements == weight.numel() > 8 * 4096  # the head itself, transposed: not 256 x 4096
    with LargestOutput() as whole:
        F.cross_entropy(F.linear(hidden, weight), targets).backward()
    assert whole.elements == 256 * 4096


def test_without_a_gradient_asked_for_none_is_made():
    hidden, weight, targets, _ = rows()
    assert not chunked_cross_entropy(hidden, Vocabulary(weight), targets).requires_grad
