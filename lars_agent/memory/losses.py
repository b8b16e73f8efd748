"""Losses over a large vocabulary without the logits ever being whole.

T hidden states against V words make T x V logits, and autograd would keep them, their softmax and their gradient. Here
`chunk` rows are turned into logits at a time. The gradient of each row's loss with respect to its hidden state,
W^T (softmax(W h) - target distribution), is (T, H) like the hidden states themselves, so it is computed on the spot and
kept in their place: the backward pass only scales it. Exact; one matrix product more than inference, none in the
backward pass.

A quantised output head becomes numbers piece by piece, which takes longer than to multiply a few rows by them. Over one
the loop runs the other way: all rows against a piece of the words at a time, twice, once for the softmax's denominators
and once for the gradient (as Wijmans et al., arXiv 2411.09009).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lars_agent.memory.quantized import QuantizedMatrix, times, times_transposed

__all__ = ["MOST_ROWS", "Vocabulary", "chunked_cross_entropy", "chunked_divergence"]

CHUNK = 32
MOST_ROWS = 1024


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
        return self._finished(times(self.weight, hidden), self.bias)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Vocabulary]]:
        """A quantised vocabulary a piece at a time: which words they are, and they as a vocabulary of their own."""
        assert isinstance(self.weight, QuantizedMatrix)
        for words, weight in self.weight.pieces(dtype):
            yield words, replace(self, weight=weight, bias=None if self.bias is None else self.bias[words])

    def _finished(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            logits = logits + bias
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
        wanted = ctx.needs_input_grad[0]
        if isinstance(vocabulary.weight, QuantizedMatrix):
            losses, gradient = _by_words(hidden, vocabulary, targets, base_hidden, wanted=wanted)
        else:
            losses, gradient = _by_rows(hidden, vocabulary, targets, base_hidden, chunk, wanted=wanted)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradient).to(gradient.dtype), None, None, None, None


def _by_rows(
    hidden: Tensor,
    vocabulary: Vocabulary,
    targets: Tensor | None,
    base_hidden: Tensor | None,
    chunk: int,
    *,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """(T,) losses and, where it is wanted, the (T, H) gradient, `chunk` rows at a time."""
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    gradient = torch.empty_like(hidden) if wanted else None
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
    return losses, gradient


def _by_words(
    hidden: Tensor, vocabulary: Vocabulary, targets: Tensor | None, base_hidden: Tensor | None, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The same, `MOST_ROWS` rows at a time against a piece of the words at a time."""
    parts = []
    for start in range(0, max(1, len(hidden)), MOST_ROWS):
        rows = slice(start, start + MOST_ROWS)
        expected = targets[rows] if targets is not None else None
        base = base_hidden[rows] if base_hidden is not None else None
        parts.append(_rows_by_words(hidden[rows], vocabulary, expected, base, wanted=wanted))
    losses, gradients = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(gradients) if wanted else None


def _rows_by_words(
    hidden: Tensor, vocabulary: Vocabulary, targets: Tensor | None, base_hidden: Tensor | None, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    lse = _denominators(hidden, vocabulary)[:, None]  # (T, 1)
    base_lse = torch.zeros_like(lse) if base_hidden is None else _denominators(base_hidden, vocabulary)[:, None]
    losses = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
    gradient = torch.zeros_like(hidden, dtype=torch.float32)
    for words, piece in vocabulary.pieces(hidden.dtype):
        logits = piece.logits(hidden).float()  # (T, W)
        log_p = logits - lse
        if base_hidden is not None:
            log_q = piece.logits(base_hidden).float().sub_(base_lse)
            q = log_q.exp()
            losses += (q * log_q.sub_(log_p)).sum(dim=1)
            error = log_p.exp_().sub_(q)
        else:
            assert targets is not None
            here = ((targets >= words.start) & (targets < words.stop)).nonzero()[:, 0]  # rows whose word it is
            place = (here, targets[here] - words.start)
            losses[here] = -log_p[place]
            error = log_p.exp_()
            error[place] -= 1.0
        if wanted:
            gradient += piece.pull_back(error, logits, hidden.dtype)
    return losses, gradient.to(hidden.dtype) if wanted else None


def _denominators(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
    """(T,) the logarithm of the softmax's denominator after each of `hidden` (T, H)."""
    total = torch.full((len(hidden),), -torch.inf, device=hidden.device)
    for _, piece in vocabulary.pieces(hidden.dtype):
        total = torch.logaddexp(total, piece.logits(hidden).float().logsumexp(dim=1))
    return total


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
