"""Losses over a large vocabulary without the logits ever being whole.

T hidden states against V words make T x V logits, and autograd would keep them, their softmax and their gradient. Here
`chunk` rows are turned into logits at a time. The gradient of each row's loss with respect to its hidden state,
W^T (softmax(W h) - target distribution), is (T, H) like the hidden states themselves, so it is computed on the spot and
kept in their place: the backward pass only scales it. Exact; one matrix product more than inference, none in the
backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lars_agent.memory.quantized import QuantizedMatrix, times, times_transposed

__all__ = ["Vocabulary", "chunked_cross_entropy", "chunked_divergence"]

CHUNK = 32


@dataclass(frozen=True)
class Vocabulary:
    """The frozen output head: logits = cap(scale (weight h + bias)).

    `weight` (V, H), a tensor or quantised; `bias` (V,); cap(z) = softcap tanh(z / softcap), or z where there is none.
    """

    weight: Tensor | QuantizedMatrix
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) of `hidden` (..., H), in its dtype."""
        logits = times(self.weight, hidden)
        if self.bias is not None:
            logits = logits + self.bias
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def pull_back(self, error: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """(C, H) in `dtype`: the gradient for the hidden states that `error`, the one for `logits`, is; both (C, V)."""
        if self.softcap is not None:
            error = error.mul_(1.0 - (logits / self.softcap).square())
        if self.scale != 1.0:
            error = error.mul_(self.scale)
        return times_transposed(self.weight, error.to(dtype))


def chunked_cross_entropy(hidden: Tensor, vocabulary: Vocabulary, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """(T,) float32: the negative log-probability, in nats, of the word ids `targets` (T,) after `hidden` (T, H).

    Gradients flow to `hidden` alone. At most two times `chunk` x V numbers exist at a time.
    """
    nll: Tensor = _Chunked.apply(hidden, vocabulary, targets, None, chunk)  # type: ignore[no-untyped-call]
    return nll


def chunked_divergence(hidden: Tensor, base_hidden: Tensor, vocabulary: Vocabulary, chunk: int = CHUNK) -> Tensor:
    """(T,) float32: KL(base || adapted) in nats between the next-word distributions of `base_hidden` and `hidden`.

    Both are (T, H); gradients flow to `hidden` alone. At most four times `chunk` x V numbers exist at a time.
    """
    divergence: Tensor = _Chunked.apply(hidden, vocabulary, None, base_hidden, chunk)  # type: ignore[no-untyped-call]
    return divergence


class _Chunked(torch.autograd.Function):
    """One loss a row: against the word `targets`, or, where they are None, against what `base_hidden` predicts."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        vocabulary: Vocabulary,
        targets: Tensor | None,
        base_hidden: Tensor | None,
        chunk: int,
    ) -> Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            logits = vocabulary.logits(hidden[rows]).float()  # (C, V)
            if targets is not None:
                losses[rows], error = _cross_entropy(logits, targets[rows])
            else:
                assert base_hidden is not None
                losses[rows], error = _divergence(logits, vocabulary.logits(base_hidden[rows]).float())
            if gradient is not None:
                gradient[rows] = vocabulary.pull_back(error, logits, hidden.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradient).to(gradient.dtype), None, None, None, None


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) losses and their gradient for the logits (C, V)."""
    log_p = torch.log_softmax(logits, dim=-1)
    place = (torch.arange(len(log_p), device=log_p.device), targets)
    losses = -log_p[place]
    error = log_p.exp_()
    error[place] -= 1.0
    return losses, error


def _divergence(logits: Tensor, base_logits: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) divergences and their gradient for the logits (C, V)."""
    log_p, log_q = torch.log_softmax(logits, dim=-1), torch.log_softmax(base_logits, dim=-1)
    q = log_q.exp()
    losses = (q * log_q.sub_(log_p)).sum(dim=1)
    return losses, log_p.exp_().sub_(q)
