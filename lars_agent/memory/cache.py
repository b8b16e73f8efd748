"""A KV cache that can be read again and again, and is never written."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache

__all__ = ["ReadOnlyCache"]


class ReadOnlyCache(Cache):
    """The keys and values of `cache` as they are now; what a call adds is seen by that call alone.

    A call through it may be made twice, or recomputed in a backward pass, and each time finds the same prefix. Keys and
    values that need a gradient are never kept. Works for every layer type that replaces its tensors and does not write
    into them, as all of `DynamicCache`'s do.
    """

    def __init__(self, cache: DynamicCache) -> None:
        super().__init__(layers=[copy.copy(layer) for layer in cache.layers])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The prefix with the call's own keys and values behind it, (B, heads, K, D) each."""
        layer = copy.copy(self.layers[layer_idx])
        return layer.update(key_states, value_states, *args, **kwargs)  # type: ignore[union-attr]
