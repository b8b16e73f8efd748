"""The five poolings of docs/method.md: the tokens that a layer pools, and those that its response acts on.

Mean pooling is published as mean + last token; both are one weighted sum over the call's tokens, whose backward needs
no input. Padding has no weight. A `LayerMemory` carries a layer's state from one call to the next (prefill, then one
token at a time); in training it lives for one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

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
        reading: True when the call only accumulates the prompt for `response` pooling: the adapter does not act.
        offset: (B,) int64, real tokens of each row in earlier calls.
        examples: in a packed call (B = 1), (N, S) bool, the tokens of each of its N examples; None if each row is an
            example.
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
        """(B, S) position of each token without padding (a padded token has its neighbour's)."""
        return self.offset[:, None] + self.real.cumsum(dim=1) - 1

    @cached_property
    def by_example(self) -> Tensor:
        """(N, S) bool: the tokens of each example, its row or its part of a packed row."""
        return self.real if self.examples is None else self.examples

    @cached_property
    def count(self) -> Tensor:
        """(N,) real tokens of each example in this call."""
        return self.by_example.sum(dim=1)

    def spread(self, values: Tensor) -> Tensor:
        """Return the value of each token, (1, S, O) in a packed call, given that of each example, (N, 1, O)."""
        if self.examples is None:
            return values
        return _Spread.apply(values, self.examples, self._example_of)  # type: ignore[no-any-return, no-untyped-call]

    @cached_property
    def _example_of(self) -> Tensor:
        """(S,) index of each token's example; 0 for padding."""
        assert self.examples is not None
        return self.examples.int().argmax(dim=0)

    @cached_property
    def sum_and_last(self) -> Tensor:
        """(N, 2, S), or packed (1, 2 N, S), float32 weights of the sum over each example's tokens, and of the last."""
        weights = torch.stack([self.by_example, is_last(self.by_example)], dim=1).float()
        return weights if self.examples is None else weights.flatten(0, 1)[None]

    def part(self, where: slice) -> Tokens:
        """Return a slice of the tokens of a call without prompt."""
        assert self.prompt is None
        examples = None if self.examples is None else self.examples[:, where]
        return replace(self, real=self.real[:, where], examples=examples)


class _Spread(torch.autograd.Function):
    """`Tokens.spread` whose backward pass sums in float32; that of indexing sums in bfloat16 and loses precision."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, examples: Tensor, example_of: Tensor) -> Tensor:
        ctx.examples = examples
        return values[example_of, 0][None]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return (ctx.examples.to(upstream[0].dtype) @ upstream[0][0])[:, None], None, None


@dataclass
class LayerMemory:
    """State of one adapted layer between calls, per request or per batch."""

    response: Response | None = None
    total: Tensor | None = None  # (N, H) float32, sum over the tokens so far of each of N examples
    count: Tensor | None = None  # (N,) their number
    last: Tensor | None = None  # (N, H) float32, the last token


# (layer, memory, x (B, S, H), tokens) -> the response at each token, (B, 1 or S, ...), in a packed call that of each
# example, (N, 1, ...), see `Tokens.spread`; None if the adapter does not act in this call.
Pooling = Callable[[LarsLayer, LayerMemory, Tensor, Tokens], Response | None]


def pool_sequence(layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
    """Pool mean + last over all real tokens of the call and act on all of them: the published form.

    Served with a KV cache, the prompt is pooled at prefill, and then each decoded token over itself.
    """
    response: Response = layer(weighted_sum(tokens.real_weights, x))
    return response


def pool_learned(layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
    """Pool the softmax of x · w_p over all real tokens of the call: the published learned form."""
    assert layer.pool_query is not None
    scores = x.to(layer.pool_query.dtype) @ layer.pool_query  # (B, S)
    scores = scores.masked_fill(~tokens.real, torch.finfo(scores.dtype).min)
    response: Response = layer(weighted_sum(scores.softmax(dim=1)[:, None, :], x))
    return response


def pool_prompt(layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
    """Pool mean + last over the prompt, act on the prompt too, and keep the response for the whole reply."""
    if tokens.prompt is not None:
        memory.response = layer(weighted_sum(tokens.prompt_weights, x))
    return memory.response


def pool_response(layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
    """Pool mean + last over the base model's activations of the prompt; act from the last prompt token on.

    The prompt is read in calls marked `reading`, in any number of chunks. The call after them begins with the last
    prompt token, and from there on the layer's bias is constant.
    """
    if tokens.reading:
        accumulate(memory, x.detach(), tokens)
        return None
    if memory.response is None:
        assert memory.total is not None
        assert memory.count is not None
        assert memory.last is not None
        memory.response = layer((memory.total / memory.count[:, None] + memory.last)[:, None, :])
    return memory.response


class CausalPooling:
    """Pool, for a token of chunk k, mean + last over the k chunks before it; no action in the first chunk."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def __call__(self, layer: LarsLayer, memory: LayerMemory, x: Tensor, tokens: Tokens) -> Response | None:
        """Return the response at each token."""
        first = tokens.offset // self.chunk  # (B,) chunk that the call begins in
        finished = (tokens.offset + tokens.count) // self.chunk - first  # (B,) chunks the call finishes
        rows = self._previous(layer, memory, x)
        if int(finished.max()) > 0:
            ended = layer(self._pool(memory, x, tokens, first, int(finished.max())))
            rows = Response(torch.cat([rows.bias, ended.bias], 1), torch.cat([rows.gate, ended.gate], 1))
        self._update(memory, rows, finished, x, tokens)
        row = (tokens.position.clamp_min(0) // self.chunk - first[:, None]).clamp_min(0)  # (B, S)
        chosen = torch.nn.functional.one_hot(row, rows.bias.shape[1]).to(rows.bias.dtype)  # (B, S, 1 + K)
        return Response(chosen @ rows.bias, chosen @ rows.gate)

    def _previous(self, layer: LarsLayer, memory: LayerMemory, x: Tensor) -> Response:
        """Return the response (B, 1, ...) of the last chunk finished in earlier calls; zeros if there is none."""
        if memory.response is not None:
            return memory.response
        widths, dtype = (layer.out_features, layer.rank), layer.up.dtype
        return Response(*(torch.zeros(x.shape[0], 1, width, dtype=dtype, device=x.device) for width in widths))

    def _pool(self, memory: LayerMemory, x: Tensor, tokens: Tokens, first: Tensor, rows: int) -> Tensor:
        """Return mean + last up to the end of each chunk that this call finishes, (B, rows, H)."""
        end = (first[:, None] + 1 + torch.arange(rows, device=x.device)) * self.chunk  # (B, K) tokens before it
        position, real = tokens.position[:, None, :], tokens.real[:, None, :]
        weights = (real & (position < end[..., None])).double() / end[..., None]
        weights = weights + (real & (position == end[..., None] - 1))
        pooled = weighted_sum(weights, x)
        return pooled if memory.total is None else pooled + memory.total[:, None, :] / end[..., None]

    def _update(self, memory: LayerMemory, rows: Response, finished: Tensor, x: Tensor, tokens: Tokens) -> None:
        """Store the last finished chunk's response and the sum over all tokens so far."""
        batch = torch.arange(x.shape[0], device=x.device)
        memory.response = Response(rows.bias[batch, finished][:, None], rows.gate[batch, finished][:, None])
        total = weighted_sum(tokens.real[:, None, :].float(), x)[:, 0]
        memory.total = total if memory.total is None else memory.total + total


def pooling_for(config: LarsConfig) -> Pooling:
    """Return the pooling that `config` names."""
    poolings: dict[str, Pooling] = {
        "sequence": pool_sequence,
        "learned": pool_learned,
        "prompt": pool_prompt,
        "response": pool_response,
        "causal": CausalPooling(config.chunk),
    }
    return poolings[config.pooling]


def mean_and_last(mask: Tensor) -> Tensor:
    """Return (B, 1, S) float64 weights: 1/n at each of the n tokens of `mask` (B, S), plus 1 at the last of them."""
    return mask[:, None, :].double() / mask.sum(dim=1).clamp_min(1)[:, None, None] + is_last(mask)[:, None, :]


def is_last(mask: Tensor) -> Tensor:
    """Return (B, S) bool, True at the last True of each row."""
    return mask & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))


def weighted_sum(weights: Tensor, x: Tensor) -> Tensor:
    """Return the sums (B, K, H), in float32 or better, of `x` (B, S, H) with `weights` (B, K, S).

    The backward pass needs `x` only if the weights are trained.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.bmm(weights.to(dtype), x.to(dtype))


def accumulate(memory: LayerMemory, x: Tensor, tokens: Tokens) -> None:
    """Add the call's real tokens to each example's running sum, and store the last of them."""
    rows = weighted_sum(tokens.sum_and_last, x).view(-1, 2, x.shape[2])
    total, last = rows[:, 0], rows[:, 1]
    if memory.total is None or memory.count is None or memory.last is None:
        memory.total, memory.count, memory.last = total, tokens.count, last
        return
    memory.total = memory.total + total
    memory.count = memory.count + tokens.count
    memory.last = torch.where((tokens.count > 0)[:, None], last, memory.last)
