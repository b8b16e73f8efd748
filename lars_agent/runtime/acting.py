"""What adapters do in a lean model: read a prompt, act by the full rule, or add one vector to each product.

`response` and `prompt` pooling are one bias for each layer once the prompt is read: those of several replies are added
to the products' outputs at once, as they are. The other modes, the per-token term, and the first token after the prompt
go through `LarsAdapter.add_to`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lars_agent.lars.inject import AdapterMemory, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.runtime.lean import SLOTS, LeanModel

__all__ = ["Biases", "Constant", "Hooked", "Reading", "constant_biases"]

Biases = tuple[tuple[Tensor | None, ...], ...]  # of each layer and slot, (O,); None where nothing is added
CONSTANT = ("response", "prompt")  # poolings that are a bias from the reply's first token on


class Reading:
    """Sums of what the adapted layers see of a prompt that the base model reads, for `response` pooling."""

    def __init__(self, model: LeanModel, adapter: LarsAdapter) -> None:
        self.count = 0
        self._names = {
            (layer, slot): names
            for layer in range(len(model.layers))
            for slot in range(len(SLOTS))
            if (names := [name for name, _ in model.outputs(layer, slot) if name in adapter.by_name])
        }
        self._totals: dict[tuple[int, int], Tensor] = {}
        self._lasts: dict[tuple[int, int], Tensor] = {}

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """See `lars_agent.runtime.lean.Acting`; adds nothing."""
        place = (layer, slot)
        if place not in self._names:
            return
        total = x.sum(dim=0, dtype=torch.float32)
        self._totals[place] = total if place not in self._totals else self._totals[place] + total
        self._lasts[place] = x[-1].float()

    def into(self, memory: AdapterMemory, tokens: int) -> None:
        """The adapter remembers what was read: all `tokens` of the prompt."""
        for place, names in self._names.items():
            for name in names:
                own = memory.layer(name)
                own.total, own.last = self._totals[place][None], self._lasts[place][None]
                own.count = torch.tensor([tokens])


class Hooked:
    """One reply's adapter, by its full rule."""

    def __init__(self, model: LeanModel, adapter: LarsAdapter, memory: AdapterMemory, tokens: Tokens) -> None:
        self.model, self.adapter, self.memory, self.tokens = model, adapter, memory, tokens

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """See `lars_agent.runtime.lean.Acting`."""
        for name, own in self.model.outputs(layer, slot):
            if name in self.adapter.by_name:
                part = out[:, own]
                part.copy_(self.adapter.add_to(part[None], name, x[None], self.memory, self.tokens)[0])


class Constant:
    """Biases of several replies, one token each."""

    def __init__(self, model: LeanModel, replies: Sequence[Biases | None]) -> None:
        self._added = [
            [self._stacked(replies, layer, slot) for slot in range(len(SLOTS))] for layer in range(len(model.layers))
        ]

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """See `lars_agent.runtime.lean.Acting`."""
        added = self._added[layer][slot]
        if added is not None:
            out += added

    @staticmethod
    def _stacked(replies: Sequence[Biases | None], layer: int, slot: int) -> Tensor | None:
        """(B, O); None where no reply adds anything."""
        found = [None if biases is None else biases[layer][slot] for biases in replies]
        some = next((bias for bias in found if bias is not None), None)
        if some is None:
            return None
        return torch.stack([torch.zeros_like(some) if bias is None else bias for bias in found])


def constant_biases(model: LeanModel, adapter: LarsAdapter, memory: AdapterMemory) -> Biases | None:
    """What the adapter adds from here on, if that is the same for every token; None where it is not."""
    if adapter.config.pooling not in CONSTANT or adapter.config.token_term:
        return None
    return tuple(
        tuple(_bias(model, adapter, memory, layer, slot) for slot in range(len(SLOTS)))
        for layer in range(len(model.layers))
    )


def _bias(model: LeanModel, adapter: LarsAdapter, memory: AdapterMemory, layer: int, slot: int) -> Tensor | None:
    outputs = model.outputs(layer, slot)
    if not any(name in adapter.by_name for name, _ in outputs):
        return None
    whole = torch.zeros(outputs[-1][1].stop, dtype=model.dtype)
    for name, own in outputs:
        response = memory.layer(name).response if name in adapter.by_name else None
        if response is not None:
            whole[own] = response.bias[0, 0].to(model.dtype)
    return whole
