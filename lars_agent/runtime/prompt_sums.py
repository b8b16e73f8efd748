"""Sums of the layers' inputs over a prompt, from which a `response` adapter computes its bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lars_agent.lars.inject import AdapterMemory
from lars_agent.runtime.constant_delta import FastAdapter
from lars_agent.runtime.prefix_cache import BLOCK, GroupKey, Sums


class PromptSums:
    """An AdapterHook that adds nothing and sums inputs: per whole block, and over the tokens behind the last one.

    It covers all layers, adapted or not, because the blocks are cached for other adapters too.
    """

    def __init__(self, cached: Sequence[Sums] = ()) -> None:
        """`cached` are the sums of the blocks that are in the KV cache already."""
        self._blocks: dict[GroupKey, list[Tensor]] = {}  # (N, I) each
        for key in cached[0] if cached else ():
            self._blocks[key] = [torch.stack([sums[key] for sums in cached])]
        self._rest: dict[GroupKey, Tensor] = {}
        self._last: dict[GroupKey, Tensor] = {}

    def __call__(self, layer: int, group: int, x: Tensor, out: Tensor) -> None:
        """Add `x` to the sums. All calls but the last two start at a block's first token."""
        key, whole = (layer, group), len(x) // BLOCK * BLOCK
        if whole:
            sums = x[:whole].view(-1, BLOCK, x.shape[1]).sum(dim=1, dtype=torch.float32)
            self._blocks.setdefault(key, []).append(sums)
        if whole < len(x):
            rest = x[whole:].sum(dim=0, dtype=torch.float32)
            self._rest[key] = rest if key not in self._rest else self._rest[key] + rest
        self._last[key] = x[-1].float()

    def blocks(self, first: int) -> list[Sums]:
        """Return the sums of each whole block from number `first` on."""
        joined = {key: torch.cat(parts)[first:] for key, parts in self._blocks.items()}
        count = max((len(rows) for rows in joined.values()), default=0)
        return [{key: rows[index].clone() for key, rows in joined.items()} for index in range(count)]

    def store(self, adapter: FastAdapter, memory: AdapterMemory, tokens: int) -> None:
        """Store the sums over the whole prompt of `tokens` tokens in the adapter's memory."""
        for key, layers in adapter.layers.items():
            parts = [*self._blocks.get(key, ()), *([self._rest[key][None]] if key in self._rest else ())]
            total, last = torch.cat(parts).sum(dim=0, keepdim=True), self._last[key][None]
            for name, _ in layers:
                own = memory.layer(name)
                own.total, own.last, own.count = total, last, torch.tensor([tokens])
