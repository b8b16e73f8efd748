"""Chunked losses over a large vocabulary: the (T, V) logits never exist as a whole.

For T hidden states and V vocabulary entries autograd would save the T x V logits, their softmax and their gradient.
Here `chunk` rows are turned into logits at a time. The gradient of each row's loss for its hidden state,
W^T (softmax(W h) - target distribution), is (T, H) like the hidden states, so it is computed in the forward pass, and
the backward pass only scales it. Exact; one matrix product more than inference, none in the backward pass.

Dequantizing a block of a quantized output head takes longer than multiplying a few rows by it. There the loop runs over
blocks of the vocabulary, all rows at once, twice: for the softmax's denominators and for the gradient (as Wijmans et
al., arXiv 2411.09009).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lars_agent.ops.quantized import QuantizedMatrix, times, times_transposed

CHUNK = 32
MAX_ROWS = 1024


@dataclass(frozen=True)
class Vocabulary:
    """The frozen output head: logits = cap(scale (weight h + bias)).

    `weight` (V, H), a tensor or quantized; `bias` (V,); cap(z) = softcap tanh(z / softcap), or z without a soft cap.
    """

    weight: Tensor | QuantizedMatrix
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of `hidden` (..., H), in its dtype."""
        logits = times(self.weight, hidden)
        if self.bias is not None:
            logits = logits + self.bias
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Vocabulary]]:
        """Yield the blocks of a quantized vocabulary, dequantized: their slice of it, and each as a vocabulary."""
        assert isinstance(self.weight, QuantizedMatrix)
        for entries, weight in self.weight.blocks(dtype):
            yield entries, replace(self, weight=weight, bias=None if self.bias is None else self.bias[entries])

    def pull_back(self, error: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the gradient (C, H), in `dtype`, for the hidden states, given `error`, that for `logits` (C, V)."""
        if self.softcap is not None:
            error = error.mul_(1.0 - (logits / self.softcap).square())
        if self.scale != 1.0:
            error = error.mul_(self.scale)
        return times_transposed(self.weight, error.to(dtype))


def chunked_cross_entropy(hidden: Tensor, vocabulary: Vocabulary, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return the negative log-probabilities (T,), float32, in nats, of the ids `targets` (T,) after `hidden` (T, H).

    Gradients flow to `hidden` alone. At most two times `chunk` x V numbers exist at a time.
    """
    return _Chunked.apply(hidden, vocabulary, targets, chunk)  # type: ignore[no-any-return, no-untyped-call]


def chunked_divergence(hidden: Tensor, base_hidden: Tensor, vocabulary: Vocabulary, chunk: int = CHUNK) -> Tensor:
    """Return KL(base || adapted) (T,), float32, in nats, of the predictions of `base_hidden` and `hidden`.

    Both are (T, H); gradients flow to `hidden` alone. At most four times `chunk` x V numbers exist at a time.
    """
    return _Chunked.apply(hidden, vocabulary, base_hidden, chunk)  # type: ignore[no-any-return, no-untyped-call]


class _Chunked(torch.autograd.Function):
    """A loss for each row: against `target` ids (T,), or the predictions of the base model's hidden states (T, H)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vocabulary: Vocabulary, target: Tensor, chunk: int) -> Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        quantized = isinstance(vocabulary.weight, QuantizedMatrix)
        loss, step = (_blockwise_loss, MAX_ROWS) if quantized else (_whole_loss, chunk)
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            own = gradient[rows] if gradient is not None else None
            loss(hidden[rows], vocabulary, target[rows], losses[rows], own)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0][:, None] * gradient).to(gradient.dtype), None, None, None


def _whole_loss(
    hidden: Tensor, vocabulary: Vocabulary, target: Tensor, losses: Tensor, gradient: Tensor | None
) -> None:
    """Compute `losses` (C,), and `gradient` (C, H) unless None, over the whole vocabulary at once."""
    logits = vocabulary.logits(hidden).float()  # (C, V)
    log_p = torch.log_softmax(logits, dim=-1)
    log_q = None if target.dim() == 1 else torch.log_softmax(vocabulary.logits(target).float(), dim=-1)
    losses[:], error = _errors(log_p, log_q, target)
    if gradient is not None:
        gradient[:] = vocabulary.pull_back(error, logits, hidden.dtype)


def _blockwise_loss(
    hidden: Tensor, vocabulary: Vocabulary, target: Tensor, losses: Tensor, gradient: Tensor | None
) -> None:
    """Compute the same over a block of the vocabulary at a time."""
    total = _denominators(hidden, vocabulary)[:, None]  # (C, 1)
    base_total = None if target.dim() == 1 else _denominators(target, vocabulary)[:, None]
    losses.zero_()
    total_gradient = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for entries, block in vocabulary.blocks(hidden.dtype):
        logits = block.logits(hidden).float()  # (C, W)
        log_q = None if base_total is None else block.logits(target).float().sub_(base_total)
        block_losses, error = _errors(logits - total, log_q, target, entries.start)
        losses += block_losses
        if gradient is not None:
            total_gradient += block.pull_back(error, logits, hidden.dtype)
    if gradient is not None:
        gradient[:] = total_gradient


def _denominators(hidden: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return the log of the softmax denominator (C,) of each of `hidden` (C, H)."""
    total = torch.full((len(hidden),), -torch.inf, device=hidden.device)
    for _, block in vocabulary.blocks(hidden.dtype):
        total = torch.logaddexp(total, block.logits(hidden).float().logsumexp(dim=1))
    return total


def _errors(log_p: Tensor, log_q: Tensor | None, targets: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the share (C,) of entries `first` to `first` + W in the losses, and their logits' gradient (C, W)."""
    if log_q is not None:
        q = log_q.exp()
        return (q * log_q.sub_(log_p)).sum(dim=1), log_p.exp_().sub_(q)
    here = ((targets >= first) & (targets < first + log_p.shape[1])).nonzero()[:, 0]  # rows with their target in it
    index = (here, targets[here] - first)
    losses = torch.zeros(len(log_p), device=log_p.device).index_put_((here,), -log_p[index])
    error = log_p.exp_()
    error[index] -= 1.0
    return losses, error
