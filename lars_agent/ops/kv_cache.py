"""KV caches without copies: preallocated, read-only, and packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from lars_agent.ops.blockwise import Prefix, Segment

GROWTH_FACTOR = 1.5
_PREFIX = "lars_prefix"


def prefix_of(key_states: Tensor) -> Prefix | None:
    """Return the prefix attached to `key_states` by a cache; None if there is none."""
    return getattr(key_states, _PREFIX, None)


class ReservedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values in a buffer preallocated for `capacity` tokens; no gradient flows.

    A plain `DynamicLayer` copies its content at every call. Here a call appends in place, and the buffer grows, with
    one copy, only when it is full. Pages not yet written take no memory. Tensors returned by `update` stay valid.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the empty buffers."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = [self._buffer(states) for states in (key_states, value_states)]
        self._set_length(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append and return all keys and values so far, (B, heads, K, D) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.capacity:
            self._grow(end)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self._set_length(end)
        return self.keys, self.values  # type: ignore[return-value]

    def _buffer(self, states: Tensor) -> Tensor:
        return states.new_empty(*states.shape[:2], self.capacity, states.shape[3])

    def _set_length(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def _grow(self, length: int) -> None:
        self.capacity = max(length, int(self.capacity * GROWTH_FACTOR))
        filled: list[Tensor] = [self.keys, self.values]  # type: ignore[list-item]
        self._buffers = [self._buffer(states) for states in filled]
        for buffer, states in zip(self._buffers, filled, strict=True):
            buffer[:, :, : states.shape[2]] = states


def reserved_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """Return an empty cache for a model of `config`, its full-attention layers preallocated for `capacity` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(max(1, capacity)) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReadOnlyCache(Cache):
    """View of `cache` that a call can attend to without changing it, so that the call can be recomputed.

    With `concatenate` False the model must use the attention of `lars_agent.ops.attention`, which gets only the call's
    own keys and finds the prefix by `prefix_of`.
    """

    def __init__(self, cache: DynamicCache, *, concatenate: bool = True) -> None:
        super().__init__(layers=list(cache.layers))
        self.concatenate = concatenate

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the call's keys and values, (B, heads, K, D) each, after those of the prefix if `concatenate`."""
        layer: Any = self.layers[layer_idx]
        if not layer.is_initialized:
            return key_states, value_states
        if not self.concatenate:
            setattr(key_states, _PREFIX, Prefix(layer.keys, layer.values))
            return key_states, value_states
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)


class PackedCache(Cache):
    """Keys and values of several packed sequences in `cache`, for a call that continues them with `segments`.

    Each segment attends to its own sequence. With `writes` the call's keys and values are appended to `cache`; else
    they are discarded, as by `ReadOnlyCache`. Requires the attention of `lars_agent.ops.attention`, and a model
    without sliding windows.
    """

    def __init__(self, cache: DynamicCache, segments: Sequence[Segment], *, writes: bool = False) -> None:
        super().__init__(layers=list(cache.layers))
        self.segments, self.writes = tuple(segments), writes

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the call's own keys and values, (1, heads, S, D) each."""
        layer: Any = self.layers[layer_idx]
        if not layer.is_initialized:
            layer.lazy_initialization(key_states, value_states)
        before = Prefix(layer.keys, layer.values, self.segments)
        if self.writes:
            layer.update(key_states, value_states)
        setattr(key_states, _PREFIX, before)
        return key_states, value_states


def keeps_every_token(config: PreTrainedConfig) -> bool:
    """Return True if no layer of a model of `config` has a sliding window."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
