"""Adapters for `FastDecoder`: applied by their full rule, or as one constant delta for every token of a reply.

With `response` and `prompt` pooling each layer has one bias once the prompt is processed, and one gate of the per-token
term: those of several sequences are added in one operation. Other poolings, and the first token after the prompt, go
through `LarsAdapter.add_to`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lars_agent.lars.inject import AdapterMemory, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.runtime.fast_decoder import PROJECTION_GROUPS, Columns, FastDecoder
from lars_agent.runtime.prefix_cache import GroupKey

_SERIAL_NUMBERS = itertools.count()
CONSTANT_POOLINGS = ("response", "prompt")
TokenTerm = tuple[Tensor, Tensor]  # of a group's layers, float32: down (K, I) and up (K, O), K the sum of their ranks


class FastAdapter:
    """An adapter prepared for FastDecoder.

    `layers` are the adapted layers of each projection group: name, and columns of the group's output. `scope` is unique
    and identifies the adapter's blocks in the prefix cache.
    """

    def __init__(self, decoder: FastDecoder, adapter: LarsAdapter) -> None:
        self.adapter, self.scope = adapter, f"adapter {next(_SERIAL_NUMBERS)}"
        self.is_constant = adapter.config.pooling in CONSTANT_POOLINGS
        self.layers: dict[GroupKey, Columns] = {}
        self.widths: dict[GroupKey, int] = {}  # O
        for key in itertools.product(range(len(decoder.layers)), range(len(PROJECTION_GROUPS))):
            columns = decoder.layers[key[0]].columns[key[1]]
            if adapted := [(name, own) for name, own in columns if name in adapter.by_name]:
                self.layers[key], self.widths[key] = adapted, columns[-1][1].stop
        has_terms = self.is_constant and adapter.config.token_term
        self.terms = {key: self._term(key) for key in self.layers} if has_terms else {}

    @torch.no_grad()
    def _term(self, key: GroupKey) -> TokenTerm:
        layers = [(self.adapter.by_name[name], columns) for name, columns in self.layers[key]]
        up = torch.zeros(sum(layer.rank for layer, _ in layers), self.widths[key])
        start = 0
        for layer, columns in layers:
            up[start : start + layer.rank, columns] = (layer.scale * layer.up).T
            start += layer.rank
        return torch.cat([layer.down for layer, _ in layers]), up


class FullAdapter:
    """An AdapterHook that applies one sequence's adapter by its full rule."""

    def __init__(self, adapter: FastAdapter, memory: AdapterMemory, tokens: Tokens) -> None:
        self.adapter, self.memory, self.tokens = adapter, memory, tokens

    def __call__(self, layer: int, group: int, x: Tensor, out: Tensor) -> None:
        """See `AdapterHook`."""
        for name, columns in self.adapter.layers.get((layer, group), ()):
            own = out[:, columns]
            own.copy_(self.adapter.adapter.add_to(own[None], name, x[None], self.memory, self.tokens)[0])


@dataclass(frozen=True)
class ConstantDelta:
    """One sequence's addition to every token: biases (O,), and gates (K,) of the per-token term if there is one."""

    adapter: FastAdapter
    biases: dict[GroupKey, Tensor]
    gates: dict[GroupKey, Tensor]

    @classmethod
    @torch.no_grad()
    def from_memory(cls, adapter: FastAdapter, memory: AdapterMemory) -> ConstantDelta:
        """Return the delta of an adapter that was applied to the reply's first token."""
        biases, gates = {}, {}
        for key, layers in adapter.layers.items():
            bias, gate = torch.zeros(adapter.widths[key]), []
            for name, columns in layers:
                response = memory.layer(name).response
                assert response is not None
                bias[columns] = response.bias[0, 0]
                gate.append(response.gate[0, 0])
            biases[key] = bias
            if adapter.terms:
                gates[key] = torch.cat(gate)
        return cls(adapter, biases, gates)

    def bias(self, key: GroupKey, dtype: torch.dtype) -> Tensor:
        """Return the (O,) float32 bias; without a per-token term rounded to `dtype`, as `LarsAdapter.add_to` does."""
        bias = self.biases[key]
        return bias if key in self.gates else bias.to(dtype).float()


class BatchedDeltas:
    """An AdapterHook that adds each sequence's delta to its one token; None is a sequence of the base model.

    Biases alone are added in the model's dtype, as in training; with the per-token term in float32, as in training, and
    because torch's small matrix products take a fifth of the time in it.
    """

    def __init__(self, deltas: Sequence[ConstantDelta | None], decoder: FastDecoder) -> None:
        # Lists, not a dictionary: there is one look-up per matrix product, and a list's takes half the time.
        self._biases: list[list[Tensor | None]] = [[None] * len(PROJECTION_GROUPS) for _ in decoder.layers]
        some = [delta for delta in deltas if delta is not None]
        for key in {key for delta in some for key in delta.biases}:
            width = next(delta.adapter.widths[key] for delta in some if key in delta.biases)
            rows = [
                torch.zeros(width) if delta is None or key not in delta.biases else delta.bias(key, decoder.dtype)
                for delta in deltas
            ]
            has_term = any(key in delta.gates for delta in some)
            self._biases[key[0]][key[1]] = torch.stack(rows).to(torch.float32 if has_term else decoder.dtype)
        adapters = {id(delta.adapter): delta.adapter for delta in some if delta.gates}
        self._terms = [_BatchedTerm(deltas, adapter) for adapter in adapters.values()]

    def __call__(self, layer: int, group: int, x: Tensor, out: Tensor) -> None:
        """See `AdapterHook`."""
        added = self._biases[layer][group]
        if added is None:
            return
        for term in self._terms:
            if (layer, group) in term.gates:
                added = term.added_to(added, (layer, group), x)
        out.add_(added)


class _BatchedTerm:
    """The per-token term of the sequences with one adapter: their rows (None: all) and gates (N, K)."""

    def __init__(self, deltas: Sequence[ConstantDelta | None], adapter: FastAdapter) -> None:
        own = [(row, delta) for row, delta in enumerate(deltas) if delta is not None and delta.adapter is adapter]
        self.adapter = adapter
        self.rows = None if len(own) == len(deltas) else torch.tensor([row for row, _ in own])
        self.gates = {key: torch.stack([delta.gates[key] for _, delta in own]) for key in adapter.terms}

    def added_to(self, added: Tensor, key: GroupKey, x: Tensor) -> Tensor:
        """Return `added` (B, O) plus the term for the tokens' `x` (B, I)."""
        (down, up), gates = self.adapter.terms[key], self.gates[key]
        own = (x if self.rows is None else x[self.rows]).float()
        before = added if self.rows is None else added[self.rows]
        if len(own) == 1:
            after = torch.addmm(before, F.linear(own, down).mul_(gates), up)
        else:  # a batch of one-row products: no reply depends on the others in the batch, to the last bit
            low = torch.bmm(own[:, None], down.T.expand(len(own), -1, -1)).mul_(gates[:, None])
            after = torch.baddbmm(before[:, None], low, up.expand(len(own), -1, -1))[:, 0]
        return after if self.rows is None else added.index_copy(0, self.rows, after)
