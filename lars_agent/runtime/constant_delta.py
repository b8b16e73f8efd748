"""What adapters do in a lean model: read a prompt, act by the full rule, or add the same to each token of a reply.

`response` and `prompt` pooling give one bias for each layer once the prompt is read, and with the per-token term one
gate: those of several replies are added to the products' outputs at once. The other modes, and the first token after
the prompt, go through `LarsAdapter.add_to`.
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
from lars_agent.runtime.fast_decoder import SLOTS, LeanModel
from lars_agent.runtime.prefix_cache import BLOCK, Place, Sums

__all__ = ["Hooked", "LeanAdapter", "Reading", "Steady", "Together", "steady"]

_NUMBERS = itertools.count()
STEADY = ("response", "prompt")  # poolings whose response is the same for the whole reply


@dataclass(frozen=True)
class TokenTerm:
    """The per-token term of the layers of one slot, float32: `down` (K, I), `up` (K, O), K the ranks of all of them."""

    down: Tensor
    up: Tensor


class LeanAdapter:
    """An adapter as a lean model needs it; `names` are the adapted layers of each layer and slot.

    `scope` is told by no other one, and is what its blocks of the prefix cache are kept under.
    """

    def __init__(self, model: LeanModel, adapter: LarsAdapter) -> None:
        self.adapter, self.scope = adapter, f"adapter {next(_NUMBERS)}"
        self.places = [(layer, slot) for layer in range(len(model.layers)) for slot in range(len(SLOTS))]
        self.names = {
            place: found
            for place in self.places
            if (found := [(name, own) for name, own in model.outputs(*place) if name in adapter.by_name])
        }
        self.widths = {place: model.outputs(*place)[-1][1].stop for place in self.names}
        self.terms = {place: self._term(place) for place in self.names} if self.has_terms else {}

    @property
    def is_steady(self) -> bool:
        """Whether it is the same for every token of a reply."""
        return self.adapter.config.pooling in STEADY

    @property
    def has_terms(self) -> bool:
        """Whether there is a per-token term that is gated in the same way all along."""
        return self.is_steady and self.adapter.config.token_term

    @torch.no_grad()
    def _term(self, place: Place) -> TokenTerm:
        layers = [(self.adapter.by_name[name], own) for name, own in self.names[place]]
        up = torch.zeros(sum(layer.rank for layer, _ in layers), self.widths[place])
        start = 0
        for layer, own in layers:
            up[start : start + layer.rank, own] = (layer.scale * layer.up).T
            start += layer.rank
        return TokenTerm(torch.cat([layer.down for layer, _ in layers]), up)


@dataclass(frozen=True)
class Steady:
    """What one reply's adapter adds to every token: biases (O,), and gates (K,) of the per-token term, by place."""

    adapter: LeanAdapter
    biases: dict[Place, Tensor]
    gates: dict[Place, Tensor]


@torch.no_grad()
def steady(adapter: LeanAdapter, memory: AdapterMemory) -> Steady:
    """What an adapter of steady pooling adds, once it has acted on the reply's first token."""
    biases, gates = {}, {}
    for place, names in adapter.names.items():
        bias, gate = torch.zeros(adapter.widths[place]), []
        for name, own in names:
            response = memory.layer(name).response
            assert response is not None
            bias[own] = response.bias[0, 0]
            gate.append(response.gate[0, 0])
        biases[place] = bias
        if adapter.has_terms:
            gates[place] = torch.cat(gate)
    return Steady(adapter, biases, gates)


class Together:
    """What the adapters of several replies add, one token each; None is a reply of the base model.

    Biases alone are added in the model's dtype, as in training; with the per-token term in float32, as there too, and
    because torch's products of few numbers take a fifth of the time in it.
    """

    def __init__(self, replies: Sequence[Steady | None], model: LeanModel) -> None:
        dtype, layers = model.dtype, len(model.layers)
        places = {place for one in replies if one is not None for place in one.biases}
        biases = {place: _stacked([_added(one, place, dtype) for one in replies]) for place in places}
        gated = {place for one in replies if one is not None for place in one.gates}
        # Looked up for each product of each token: a list's element is found in half the time of a dictionary's.
        self._plain = _by_place({place: bias.to(dtype) for place, bias in biases.items() if place not in gated}, layers)
        self._exact = _by_place({place: bias for place, bias in biases.items() if place in gated}, layers)
        self._groups = [
            _Group(replies, adapter)
            for adapter in {id(one.adapter): one.adapter for one in replies if one is not None and one.gates}.values()
        ]

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """See `lars_agent.runtime.fast_decoder.Acting`."""
        plain = self._plain[layer][slot]
        if plain is not None:
            out.add_(plain)
            return
        added = self._exact[layer][slot]
        if added is None:
            return
        for group in self._groups:
            if (layer, slot) in group.gates:
                added = group.added_to(added, (layer, slot), x)
        out.add_(added)


class _Group:
    """The replies of one adapter with a per-token term: which they are (None: all), and their gates (N, K)."""

    def __init__(self, replies: Sequence[Steady | None], adapter: LeanAdapter) -> None:
        own = [(row, one) for row, one in enumerate(replies) if one is not None and one.adapter is adapter]
        self.adapter = adapter
        self.rows = None if len(own) == len(replies) else torch.tensor([row for row, _ in own])
        self.gates = {place: torch.stack([one.gates[place] for _, one in own]) for place in adapter.terms}

    def added_to(self, added: Tensor, place: Place, x: Tensor) -> Tensor:
        """`added` (B, O) and what the term gives for the tokens' `x` (B, I)."""
        term, gates = self.adapter.terms[place], self.gates[place]
        own = (x if self.rows is None else x[self.rows]).float()
        before = added if self.rows is None else added[self.rows]
        if len(own) == 1:
            after = torch.addmm(before, F.linear(own, term.down).mul_(gates), term.up)
        else:  # a batch of products of one row each: no reply depends on what is made beside it, to the last bit
            low = torch.bmm(own[:, None], term.down.T.expand(len(own), -1, -1)).mul_(gates[:, None])
            after = torch.baddbmm(before[:, None], low, term.up.expand(len(own), -1, -1))[:, 0]
        return after if self.rows is None else added.index_copy(0, self.rows, after)


def _added(reply: Steady | None, place: Place, dtype: torch.dtype) -> Tensor | None:
    """The bias of one reply, rounded as it is where it is added alone."""
    bias = None if reply is None else reply.biases.get(place)
    if bias is None or reply is None or place in reply.gates:
        return bias
    return bias.to(dtype).float()


def _by_place(tensors: dict[Place, Tensor], layers: int) -> list[list[Tensor | None]]:
    """By layer and slot; None where there is nothing."""
    return [[tensors.get((layer, slot)) for slot in range(len(SLOTS))] for layer in range(layers)]


def _stacked(biases: Sequence[Tensor | None]) -> Tensor:
    """(B, O); nothing where there is no bias."""
    some = next(bias for bias in biases if bias is not None)
    return torch.stack([torch.zeros_like(some) if bias is None else bias for bias in biases])


class Reading:
    """Sums of what the layers see of a prompt that the base model reads: of each whole block, and of the rest.

    All layers', whichever are adapted: the blocks are kept for other adapters too.
    """

    def __init__(self, known: Sequence[Sums] = ()) -> None:
        """`known` are those of the blocks that need not be read."""
        self._blocks: dict[Place, list[Tensor]] = {}  # (N, I) each
        for place in known[0] if known else ():
            self._blocks[place] = [torch.stack([sums[place] for sums in known])]
        self._rest: dict[Place, Tensor] = {}
        self._last: dict[Place, Tensor] = {}

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """Add nothing; see `fast_decoder.Acting`. Calls begin where a block does, but for the last."""
        place, whole = (layer, slot), len(x) // BLOCK * BLOCK
        if whole:
            sums = x[:whole].view(-1, BLOCK, x.shape[1]).sum(dim=1, dtype=torch.float32)
            self._blocks.setdefault(place, []).append(sums)
        if whole < len(x):
            rest = x[whole:].sum(dim=0, dtype=torch.float32)
            self._rest[place] = rest if place not in self._rest else self._rest[place] + rest
        self._last[place] = x[-1].float()

    def sums(self, first: int) -> list[Sums]:
        """Those of each block, from the one numbered `first` on."""
        joined = {place: torch.cat(pieces)[first:] for place, pieces in self._blocks.items()}
        count = max((len(rows) for rows in joined.values()), default=0)
        return [{place: rows[index].clone() for place, rows in joined.items()} for index in range(count)]

    def into(self, adapter: LeanAdapter, memory: AdapterMemory, tokens: int) -> None:
        """`memory` is what the adapter remembers of the prompt, all `tokens` of it."""
        for place, names in adapter.names.items():
            pieces = [*self._blocks.get(place, ()), *([self._rest[place][None]] if place in self._rest else ())]
            total, last = torch.cat(pieces).sum(dim=0, keepdim=True), self._last[place][None]
            for name, _ in names:
                own = memory.layer(name)
                own.total, own.last, own.count = total, last, torch.tensor([tokens])


class Hooked:
    """One reply's adapter, by its full rule."""

    def __init__(self, adapter: LeanAdapter, memory: AdapterMemory, tokens: Tokens) -> None:
        self.adapter, self.memory, self.tokens = adapter, memory, tokens

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """See `lars_agent.runtime.fast_decoder.Acting`."""
        for name, own in self.adapter.names.get((layer, slot), ()):
            part = out[:, own]
            part.copy_(self.adapter.adapter.add_to(part[None], name, x[None], self.memory, self.tokens)[0])
