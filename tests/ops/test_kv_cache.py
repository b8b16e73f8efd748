"""The caches against transformers' own, and what they do not do: copy, and be written."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, MistralConfig

from lars_agent.ops.kv_cache import ReadOnlyCache, ReservedLayer, prefix_of, reserved_cache
from tests.tiny import COMMON, tiny_model

CONFIG = MistralConfig(**COMMON, sliding_window=None)


def pieces(*lengths: int):
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(2, 2, length, 8, generator=generator) for _ in "kv") for length in lengths]


@pytest.mark.parametrize("capacity", [1, 5, 9, 100])
def test_it_holds_what_transformers_own_cache_holds_whatever_its_room(capacity):
    ours, theirs = reserved_cache(CONFIG, capacity), DynamicCache(config=CONFIG)
    for piece in pieces(4, 1, 3, 1):
        for layer in range(2):
            got, expected = ours.update(*piece, layer), theirs.update(*piece, layer)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_within_its_room_nothing_is_copied():
    layer = ReservedLayer(10)
    first, second = pieces(4, 3)
    keys, _ = layer.update(*first)
    assert layer.update(*second)[0].data_ptr() == keys.data_ptr()
    assert torch.equal(keys, first[0])


def test_a_model_generates_the_same_with_it():
    model = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7, 8]])
    texts = [
        model.generate(ids, cache=cache, do_sample=False, max_new_tokens=8, eos_token_id=None)
        for cache in (reserved_cache(model.config, 3), DynamicCache(config=model.config))
    ]
    assert torch.equal(*texts)


@pytest.mark.parametrize("window", [None, 4])
def test_a_read_only_cache_gives_the_same_each_time_and_stays_as_it_is(window):
    cache = reserved_cache(MistralConfig(**COMMON, sliding_window=window), 3)
    prefix, added = pieces(5, 2)
    for layer in range(2):
        cache.update(*prefix, layer)
    before = cache.layers[0].keys.clone()
    reading = ReadOnlyCache(cache)
    first, again = (reading.update(*added, 0) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(cache.layers[0].keys, before)
    assert reading.get_seq_length() == cache.get_seq_length() == 5
    assert torch.equal(cache.update(*added, 0)[0], first[0])


def test_an_empty_prefix_is_none_and_gradients_flow_to_what_is_added():
    reading = ReadOnlyCache(reserved_cache(CONFIG, 8))
    keys, values = (state.requires_grad_() for state in pieces(3)[0])
    got = reading.update(keys, values, 0)
    assert got[0] is keys
    filled = reserved_cache(CONFIG, 8)
    filled.update(*pieces(2)[0], 0)
    ReadOnlyCache(filled).update(keys, values, 0)[0].sum().backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))


def test_a_read_only_cache_that_is_not_joined_hands_over_the_prefix_as_it_is():
    cache = reserved_cache(CONFIG, 8)
    prefix, added = pieces(5, 2)
    cache.update(*prefix, 0)
    keys, values = ReadOnlyCache(cache, concatenate=False).update(*added, 0)
    assert (keys is added[0], values is added[1]) == (True, True)
    assert prefix_of(keys).key.data_ptr() == cache.layers[0].keys.data_ptr()
    assert prefix_of(pieces(2)[0][0]) is None
