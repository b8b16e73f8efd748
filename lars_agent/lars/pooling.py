"""What an adapted layer reads, and at which tokens it acts: five ways behind one protocol.

    sequence   as published: over all tokens of the call, acting on all of them
    learned    the same with a learned softmax over the tokens
    prompt     over the prompt; kept for the whole reply
    response   over the prompt as the base model sees it; acts from the last prompt token on
    causal     running mean over finished chunks; each token sees the chunks before its own

Mean pooling is published as mean + last token; both are one weighted sum over the call's tokens, whose backward needs
no input. Padding never has weight. A `LayerMemory` carries what a layer must remember from one call to the next
(prefill, then one token at a time); in training it lives for one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from lars_agent.lars.config import LarsConfig
from lars_agent.lars.layer import LarsLayer, Response


@dataclass
class Tokens:
    """The tokens of one forward call of the model.

    Attributes:
        real: (B, S) bool, False at padding.
        prompt: (B, S) bool, the prompt's tokens; None when the call holds none.
        reading: True when the call only reads the prompt for `response` pooling: the adapter does not act.
        offset: (B,) int64, how many real tokens of each row came in earlier calls.
        examples: in a packed call (B = 1), (N, S) bool: which tokens belong to each of its N examples. None where each
            row is an example.
    """

    real: Tensor
    prompt: Tensor | None = None
    reading: bool = False
    offset: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    examples: Tensor | None = None

    @cached_property
    def real_weights(self) -> Tensor:
        """(B, 1, S) weights of mean + last over the real tokens."""
        return mean_and_last(self.real)

    @cached_property
    def prompt_weights(self) -> Tensor:
        """(B, 1, S) weights of mean + last over the prompt's tokens."""
        assert self.prompt is not None
        return mean_and_last(self.prompt)

    @cached_property
    def position(self) -> Tensor:
        """(B, S) each token's place in its sequence, padding not counted (a padded token has its neighbour's)."""
        return self.offset[:, None] + self.real.cumsum(dim=1) - 1

    @cached_property
    def by_example(self) -> Tensor:
        """(N, S) bool: the tokens of each example; its row, or its part of the one row of a packed call."""
        return self.real if self.examples is None else self.examples

    @cached_property
    def count(self) -> Tensor:
        """(N,) real tokens of each example in this call."""
        return self.by_example.sum(dim=1)

    def spread(self, values: Tensor) -> Tensor:
        """What holds at each token of what holds for each example, `values` (N, 1, O): (1, S, O) of a packed call."""
        if self.examples is None:
            return values
        spread: Tensor = _Spread.apply(values, self.examples, self._example_of)  # type: ignore[no-untyped-call]
        return spread

    @cached_property
    def _example_of(self) -> Tensor:
        """(S,) the number of each token's example; 0 for a token of none."""
        assert self.examples is not None
        return self.examples.int().argmax(dim=0)

    @cached_property
    def sum_and_last(self) -> Tensor:
        """(N, 2, S) or, packed, (1, 2 N, S) float32: weights of the sum over each example's tokens, and of the last."""
        weights = torch.stack([self.by_example, is_last(self.by_example)], dim=1).float()
        return weights if self.examples is None else weights.flatten(0, 1)[None]

    def part(self, where: slice) -> Tokens:
        """Some of the tokens, of a call with no prompt in it."""
        assert self.prompt is None
        examples = None if self.examples is None else self.examples[:, where]
        return replace(self, real=self.real[:, where], examples=examples)


class _Spread(torch.autograd.Function):
    """`Tokens.spread`. Indexing's own backward pass adds token by token in the gradient's dtype: in bfloat16 what is
    added to a large sum is lost. A product adds in float32.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, examples: Tensor, example_of: Tensor) -> Tensor:
        ctx.examples = examples
        return values[example_of, 0][None]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return (ctx.examples.to(upstream[0].dtype) @ upstream[0][0])[:, None], None, None


@dataclass
class LayerMemory:
    """What one adapted layer keeps between calls, per request or per batch."""

    response: Response | None = None
    total: Tensor | None = None  # (N, H) float32, sum over the tokens so far of each of N examples
    count: Tensor | None = None  # (N,) how many
    last: Tensor | None = None  # (N, H) float32, the last of them


class Pooling(Protocol):
    """One way of pooling: what the adapter adds to a layer's output."""

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """The response that holds at each token of `x` (B, S, H): (B, 1 or S, ...), or None to leave them alone.

        In a packed call it is that of each example, (N, 1, ...), see `Tokens.spread`.
        """
        ...


class SequencePooling:
    """Mean + last over all real tokens of the call, acting on all of them: the published form.

    Served with a KV cache, the prompt is pooled at prefill and then each decoded token over itself.
    """

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """See `Pooling`."""
        response: Response = layer(weighted_sum(tokens.real_weights, x))
        return response


class LearnedPooling:
    """Softmax of x · w_p over all real tokens of the call: the published learned form."""

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """See `Pooling`."""
        assert layer.pool_query is not None
        scores = x.to(layer.pool_query.dtype) @ layer.pool_query  # (B, S)
        scores = scores.masked_fill(~tokens.real, torch.finfo(scores.dtype).min)
        response: Response = layer(weighted_sum(scores.softmax(dim=1)[:, None, :], x))
        return response


class PromptPooling:
    """Mean + last over the prompt's tokens; acts on the prompt too, and the vector is kept for the whole reply."""

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """See `Pooling`."""
        if tokens.prompt is not None:
            memory.response = layer(weighted_sum(tokens.prompt_weights, x))
        return memory.response


class ResponsePooling:
    """Mean + last over the prompt as the base model sees it; acts from the last prompt token on.

    The prompt is read in calls marked `reading` (in as many chunks as one likes); the call after them begins with the
    last prompt token, and from there on the layer's bias is one constant vector.
    """

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """See `Pooling`."""
        if tokens.reading:
            remember(memory, x.detach(), tokens)
            return None
        if memory.response is None:
            assert memory.total is not None
            assert memory.count is not None
            assert memory.last is not None
            memory.response = layer((memory.total / memory.count[:, None] + memory.last)[:, None, :])
        return memory.response


class CausalPooling:
    """At a token of chunk k, mean + last over the k finished chunks before it; nothing acts in the first chunk."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """See `Pooling`."""
        first = tokens.offset // self.chunk  # (B,) chunk that the call begins in
        finished = (tokens.offset + tokens.count) // self.chunk - first  # (B,) chunks the call finishes
        rows = self._carried(layer, memory, x)
        if int(finished.max()) > 0:
            ended = layer(self._pool(memory, x, tokens, first, int(finished.max())))
            rows = Response(torch.cat([rows.bias, ended.bias], 1), torch.cat([rows.gate, ended.gate], 1))
        self._carry(memory, rows, finished, x, tokens)
        row = (tokens.position.clamp_min(0) // self.chunk - first[:, None]).clamp_min(0)  # (B, S)
        chosen = torch.nn.functional.one_hot(row, rows.bias.shape[1]).to(rows.bias.dtype)  # (B, S, 1 + K)
        return Response(chosen @ rows.bias, chosen @ rows.gate)

    def _carried(self, layer: LarsLayer, memory: LayerMemory, x: Tensor) -> Response:
        """The response of the last chunk finished in earlier calls, (B, 1, ...); zero when there is none."""
        if memory.response is not None:
            return memory.response
        shape = (x.shape[0], 1)
        dtype = layer.up.dtype
        return Response(
            torch.zeros(*shape, layer.out_features, dtype=dtype, device=x.device),
            torch.zeros(*shape, layer.rank, dtype=dtype, device=x.device),
        )

    def _pool(self, memory: LayerMemory, x: Tensor, tokens: Tokens, first: Tensor, rows: int) -> Tensor:
        """(B, rows, H): mean + last up to the end of each chunk that this call finishes."""
        end = (
            first[:, None] + 1 + torch.arange(rows, device=x.device)
        ) * self.chunk  # (B, K) tokens before the boundary
        position, real = tokens.position[:, None, :], tokens.real[:, None, :]
        weights = (real & (position < end[..., None])).double() / end[..., None]
        weights = weights + (real & (position == end[..., None] - 1))
        pooled = weighted_sum(weights, x)
        return pooled if memory.total is None else pooled + memory.total[:, None, :] / end[..., None]

    def _carry(self, memory: LayerMemory, rows: Response, finished: Tensor, x: Tensor, tokens: Tokens) -> None:
        """Remembers the last finished chunk's response and the sum over all tokens so far."""
        batch = torch.arange(x.shape[0], device=x.device)
        memory.response = Response(rows.bias[batch, finished][:, None], rows.gate[batch, finished][:, None])
        total = weighted_sum(tokens.real[:, None, :].float(), x)[:, 0]
        memory.total = total if memory.total is None else memory.total + total


def pooling_for(config: LarsConfig) -> Pooling:
    """The pooling that `config` names."""
    kinds: dict[str, Callable[[], Pooling]] = {
        "sequence": SequencePooling,
        "learned": LearnedPooling,
        "prompt": PromptPooling,
        "response": ResponsePooling,
    }
    return CausalPooling(config.chunk) if config.pooling == "causal" else kinds[config.pooling]()


def mean_and_last(mask: Tensor) -> Tensor:
    """(B, 1, S) float64 weights: 1/n at each of the n tokens of `mask` (B, S), and 1 more at the last of them."""
    return mask[:, None, :].double() / mask.sum(dim=1).clamp_min(1)[:, None, None] + is_last(mask)[:, None, :]


def is_last(mask: Tensor) -> Tensor:
    """(B, S) bool: True at the last True of each row."""
    return mask & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))


def weighted_sum(weights: Tensor, x: Tensor) -> Tensor:
    """(B, K, H) in float32 or better: `weights` (B, K, S) over the tokens of `x` (B, S, H). Backward needs no `x`
    unless the weights learn.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.bmm(weights.to(dtype), x.to(dtype))


def remember(memory: LayerMemory, x: Tensor, tokens: Tokens) -> None:
    """Adds the call's real tokens to each example's running sum, and keeps the last of them."""
    rows = weighted_sum(tokens.sum_and_last, x).view(-1, 2, x.shape[2])
    total, last = rows[:, 0], rows[:, 1]
    if memory.total is None or memory.count is None or memory.last is None:
        memory.total, memory.count, memory.last = total, tokens.count, last
        return
    memory.total = memory.total + total
    memory.count = memory.count + tokens.count
    memory.last = torch.where((tokens.count > 0)[:, None], last, memory.last)
