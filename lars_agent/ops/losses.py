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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lars_agent.ops.quantized import QuantizedMatrix, times, times_transposed

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
        logits = times(self.weight, hidden)
        if self.bias is not None:
            logits = logits + self.bias
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Vocabulary]]:
        """A quantised vocabulary a piece at a time: which words they are, and they as a vocabulary of their own."""
        assert isinstance(self.weight, QuantizedMatrix)
        for words, weight in self.weight.pieces(dtype):
            yield words, replace(self, weight=weight, bias=None if self.bias is None else self.bias[words])

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
        by_words = isinstance(vocabulary.weight, QuantizedMatrix)
        part, step = (_by_words, MOST_ROWS) if by_words else (_all_words, chunk)
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            towards = _Towards(
                targets[rows] if targets is not None else None, base_hidden[rows] if base_hidden is not None else None
            )
            part(hidden[rows], vocabulary, towards, losses[rows], gradient[rows] if gradient is not None else None)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradient).to(gradient.dtype), None, None, None, None


class _Towards(NamedTuple):
    """What some rows are to predict: words (C,), or, where these are None, what the base model's `hidden` (C, H) do."""

    targets: Tensor | None
    hidden: Tensor | None


def _all_words(
    hidden: Tensor, vocabulary: Vocabulary, towards: _Towards, losses: Tensor, gradient: Tensor | None
) -> None:
    """`losses` (C,), and `gradient` (C, H) where it is wanted, of rows against all words at once."""
    logits = vocabulary.logits(hidden).float()  # (C, V)
    log_p, log_q = torch.log_softmax(logits, dim=-1), None
    if towards.hidden is not None:
        log_q = torch.log_softmax(vocabulary.logits(towards.hidden).float(), dim=-1)
    losses[:], error = _errors(log_p, log_q, towards.targets)
    if gradient is not None:
        gradient[:] = vocabulary.pull_back(error, logits, hidden.dtype)


def _by_words(
    hidden: Tensor, vocabulary: Vocabulary, towards: _Towards, losses: Tensor, gradient: Tensor | None
) -> None:
    """The same against a piece of the words at a time."""
    total = _denominators(hidden, vocabulary)[:, None]  # (C, 1)
    base_total = None if towards.hidden is None else _denominators(towards.hidden, vocabulary)[:, None]
    losses.zero_()
    pulled = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for words, piece in vocabulary.pieces(hidden.dtype):
        logits, log_q = piece.logits(hidden).float(), None  # (C, W)
        if towards.hidden is not None:
            log_q = piece.logits(towards.hidden).float().sub_(base_total)  # type: ignore[arg-type]
        part, error = _errors(logits - total, log_q, towards.targets, words.start)
        losses += part
        if gradient is not None:
            pulled += piece.pull_back(error, logits, hidden.dtype)
    if gradient is not None:
        gradient[:] = pulled


def _denominators(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
    """(C,) the logarithm of the softmax's denominator after each of `hidden` (C, H)."""
    total = torch.full((len(hidden),), -torch.inf, device=hidden.device)
    for _, piece in vocabulary.pieces(hidden.dtype):
        total = torch.logaddexp(total, piece.logits(hidden).float().logsumexp(dim=1))
    return total


def _errors(log_p: Tensor, log_q: Tensor | None, targets: Tensor | None, first: int = 0) -> tuple[Tensor, Tensor]:
    """(C,) what words `first` to `first` + W add to the losses, and the losses' gradient for their logits (C, W)."""
    if log_q is not None:
        q = log_q.exp()
        return (q * log_q.sub_(log_p)).sum(dim=1), log_p.exp_().sub_(q)
    assert targets is not None
    here = ((targets >= first) & (targets < first + log_p.shape[1])).nonzero()[:, 0]  # rows whose word is among them
    place = (here, targets[here] - first)
    losses = torch.zeros(len(log_p), device=log_p.device).index_put_((here,), -log_p[place])
    error = log_p.exp_()
    error[place] -= 1.0
    return losses, error
