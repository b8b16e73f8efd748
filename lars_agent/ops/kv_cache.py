"""KV caches that make no copies: one that is written in place, one that is never written, one of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from lars_agent.ops.blockwise import Piece, Prefix

__all__ = ["PackedCache", "ReadOnlyCache", "ReservedLayer", "keeps_every_token", "prefix_of", "reserved_cache"]

GROWTH = 1.5
_PREFIX = "lars_prefix"


def prefix_of(key_states: Tensor) -> Prefix | None:
    """The keys and values that `key_states` follow on; None where they stand alone."""
    return getattr(key_states, _PREFIX, None)


class ReservedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values at the front of a room for `capacity` tokens.

    A plain `DynamicLayer` copies all it has for every call, token or chunk, and holds both copies meanwhile. Here a
    call writes behind what is there; the room grows, with one copy, only when it is full. Pages that nothing was
    written to take no memory. What `update` returned stays as it was, for later calls write behind it. No gradient
    flows.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The room is there, with nothing in it."""
        super().lazy_initialization(key_states, value_states)
        self._rooms = [self._room(states) for states in (key_states, value_states)]
        self._show(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values so far, (B, heads, K, D) each, the new ones behind the others."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.capacity:
            self._grow(end)
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values  # type: ignore[return-value]

    def _room(self, states: Tensor) -> Tensor:
        return states.new_empty(*states.shape[:2], self.capacity, states.shape[3])

    def _show(self, length: int) -> None:
        self.keys, self.values = (room[:, :, :length] for room in self._rooms)

    def _grow(self, length: int) -> None:
        self.capacity = max(length, int(self.capacity * GROWTH))
        filled: list[Tensor] = [self.keys, self.values]  # type: ignore[list-item]
        self._rooms = [self._room(states) for states in filled]
        for room, states in zip(self._rooms, filled, strict=True):
            room[:, :, : states.shape[2]] = states


def reserved_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """An empty cache for a model of `config`; its layers of full attention have room for `capacity` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(max(1, capacity)) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReadOnlyCache(Cache):
    """The keys and values of `cache`; what a call adds is seen by that call alone.

    A call through it may be made twice, or recomputed in a backward pass, and each time finds the same prefix. Keys and
    values that need a gradient are never kept. With `joined` False the model's attention must be the one of
    `lars_agent.ops.attention`: it gets the call's own keys alone, and finds the prefix by `prefix_of`.
    """

    def __init__(self, cache: DynamicCache, *, joined: bool = True) -> None:
        super().__init__(layers=list(cache.layers))
        self.joined = joined

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The prefix with the call's own keys and values behind it, (B, heads, K, D) each, or (not joined) these."""
        layer: Any = self.layers[layer_idx]
        if not layer.is_initialized:
            return key_states, value_states
        if not self.joined:
            setattr(key_states, _PREFIX, Prefix(layer.keys, layer.values))
            return key_states, value_states
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)


class PackedCache(Cache):
    """The keys and values of several sequences behind one another in `cache`, for one call that holds `pieces` of them.

    Each piece sees its own sequence alone. With `writes` the call's keys and values go into `cache`; otherwise they are
    seen by the call alone, as with `ReadOnlyCache`. For the attention of `lars_agent.ops.attention`, which finds all
    this by `prefix_of`, and for models whose layers keep every token.
    """

    def __init__(self, cache: DynamicCache, pieces: Sequence[Piece], *, writes: bool = False) -> None:
        super().__init__(layers=list(cache.layers))
        self.pieces, self.writes = tuple(pieces), writes

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The call's own keys and values, (1, heads, S, D) each."""
        layer: Any = self.layers[layer_idx]
        if not layer.is_initialized:
            layer.lazy_initialization(key_states, value_states)
        before = Prefix(layer.keys, layer.values, self.pieces)
        if self.writes:
            layer.update(key_states, value_states)
        setattr(key_states, _PREFIX, before)
        return key_states, value_states


def keeps_every_token(config: PreTrainedConfig) -> bool:
    """Whether the cache of a model of `config` keeps all tokens in every layer: no layer has a sliding window."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
