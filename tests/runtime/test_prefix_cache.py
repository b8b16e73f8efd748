"""Blocks of prompts: found by prefix, bounded in bytes."""

from __future__ import annotations

import torch

from lars_agent.runtime.prefix_cache import BLOCK, Block, PrefixCache


def block(number: int = 0) -> Block:
    return Block(torch.full((1, 2, 1, BLOCK, 2), float(number)), {(0, 0): torch.zeros(4)})


def tokens(*numbers: int) -> list[int]:
    return [number for number in numbers for _ in range(BLOCK)]


SIZE = block().nbytes


def found(cache: PrefixCache, *numbers: int, scope: str = "base") -> list[float]:
    return [float(one.states.flatten()[0]) for one in cache.find(scope, tokens(*numbers))]


def test_the_longest_cached_prefix_is_found():
    cache = PrefixCache(10 * SIZE)
    cache.keep("base", tokens(1, 2, 3), [block(1), block(2), block(3)])
    assert found(cache, 1, 2, 9) == [1, 2]
    assert found(cache, 1, 2, 3, 4) == [1, 2, 3]
    assert found(cache, 2, 3) == []
    assert found(cache, 1, 2, 3, scope="other") == []
    assert cache.find("base", tokens(1)[:-1]) == []


def test_a_block_is_kept_once():
    cache = PrefixCache(10 * SIZE)
    for _ in range(2):
        cache.keep("base", tokens(1, 2), [block(1), block(2)])
    assert cache.held_bytes == 2 * SIZE


def test_the_least_recently_used_block_is_evicted_first_and_ends_before_beginnings():
    cache = PrefixCache(3 * SIZE)
    cache.keep("base", tokens(1, 2), [block(1), block(2)])
    cache.keep("base", tokens(5), [block(5)])
    assert found(cache, 1) == [1]
    cache.keep("base", tokens(6), [block(6)])
    assert cache.held_bytes == 3 * SIZE
    assert found(cache, 1, 2) == [1]
    assert found(cache, 5) == [5]
    assert found(cache, 6) == [6]


def test_a_block_larger_than_the_limit_is_not_kept():
    cache = PrefixCache(SIZE - 1)
    cache.keep("base", tokens(1), [block(1)])
    assert (cache.held_bytes, found(cache, 1)) == (0, [])


def test_a_cleared_cache_is_empty():
    cache = PrefixCache(10 * SIZE)
    cache.keep("base", tokens(1), [block(1)])
    cache.clear()
    assert (cache.held_bytes, found(cache, 1)) == (0, [])
