"""FastDecoder against the transformers model, and batched decoding against one sequence at a time."""

from __future__ import annotations

import pytest
import torch

from lars_agent.lars import attach
from lars_agent.runtime import generation
from lars_agent.runtime.constant_delta import FastAdapter
from lars_agent.runtime.fast_backend import FastBackend
from lars_agent.runtime.fast_decoder import FastDecoder, build_fast_decoder
from lars_agent.runtime.generation import FastSequence
from lars_agent.runtime.prefix_cache import BLOCK, PrefixCache
from tests.lars.test_serving import MODES, adapter_for, rows, served_logits
from tests.tiny import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
CAPACITY = 10


def prefilled(
    decoder: FastDecoder, adapter: FastAdapter | None, prompt, prefixes: PrefixCache | None = None
) -> FastSequence:
    sequence = FastSequence(decoder, adapter, prompt, CAPACITY, prefixes or PrefixCache(0))
    for _ in sequence.prefill():
        pass
    return sequence


def step(sequences: list[FastSequence], tokens: list[int]) -> None:
    FastBackend(sequences[0].decoder, PrefixCache(0)).step(sequences, tokens)


def fast_decoder(family: str = "llama") -> FastDecoder:
    found = build_fast_decoder(tiny_model(family))
    assert found is not None
    return found


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 120, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("token_term", [True, False])
@pytest.mark.parametrize("pooling", [None, *MODES])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_batched_replies_have_the_logits_of_each_alone(family, pooling, token_term):
    model = tiny_model(family)
    attachment, found = attach(model), build_fast_decoder(model)
    assert found is not None
    adapter = None if pooling is None else adapter_for(model, pooling, token_term=token_term)
    examples = rows()
    replies = [prefilled(found, adapter and FastAdapter(found, adapter), row.prompt) for row in examples]
    logits = [[reply.logits] for reply in replies]
    backend = FastBackend(found, PrefixCache(0))
    for place in range(max(len(row.reply) for row in examples) - 1):
        going = [index for index, row in enumerate(examples) if place < len(row.reply) - 1]
        backend.step([replies[index] for index in going], [examples[index].reply[place] for index in going])
        for index in going:
            logits[index].append(replies[index].logits)
    for row, ours in zip(examples, logits, strict=True):
        expected = served_logits(attachment, adapter, row).log_softmax(-1)
        torch.testing.assert_close(torch.stack(ours).log_softmax(-1), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_replies_with_different_adapters_and_with_none_share_a_pass():
    model = tiny_model()
    found = fast_decoder()
    adapters = [None, *(adapter_for(model, pooling, token_term=True) for pooling in ("response", "prompt", "causal"))]
    adapters.append(adapter_for(model, "response", token_term=False))
    prepared = [adapter and FastAdapter(found, adapter) for adapter in adapters]
    prompt = prompt_of(9)
    together, alone = ([prefilled(found, adapter, prompt) for adapter in prepared] for _ in range(2))
    for token in (5, 17):
        step(together, [token] * len(together))
        for reply in alone:
            step([reply], [token])
    for ours, its_own in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.logits, its_own.logits, rtol=0, atol=1e-4)
    assert len({tuple(reply.logits.tolist()) for reply in alone}) == len(alone)


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma"])
def test_a_model_of_another_structure_is_not_supported(family):
    assert build_fast_decoder(tiny_model(family)) is None


def test_a_model_that_computes_something_else_is_not_supported(monkeypatch):
    monkeypatch.setattr(FastDecoder, "_mlp", lambda self, layer, x, hook: torch.zeros_like(x))
    assert build_fast_decoder(tiny_model()) is None


@pytest.mark.parametrize("pooling", [None, "response", "causal"])
@pytest.mark.parametrize("length", [2, BLOCK, BLOCK + 1, BLOCK + 2, 3 * BLOCK + 7])
@torch.no_grad()
def test_a_cached_prompt_gives_identical_bits(pooling, length):
    model, found, prefixes = tiny_model(), fast_decoder(), PrefixCache(10**8)
    adapter = None if pooling is None else FastAdapter(found, adapter_for(model, pooling))
    prompt = prompt_of(length)
    alone = prefilled(found, adapter, prompt)
    cold, warm = (prefilled(found, adapter, prompt, prefixes) for _ in range(2))
    assert cold.cached_tokens == 0
    assert warm.cached_tokens == (length - 1) // BLOCK * BLOCK
    for reply in (cold, warm):
        assert torch.equal(reply.logits, alone.logits)
        step([reply], [7])
    assert torch.equal(cold.logits, warm.logits)


@torch.no_grad()
def test_blocks_of_one_adapter_serve_another_and_the_base_model():
    model, found, prefixes = tiny_model(), fast_decoder(), PrefixCache(10**8)
    prompt = prompt_of(2 * BLOCK + 5)
    for adapter in (None, adapter_for(model, "response"), adapter_for(model, "response", token_term=False)):
        prepared = adapter and FastAdapter(found, adapter)
        reply = prefilled(found, prepared, [*prompt[: BLOCK + 9], 3, 4, 5], prefixes)
        torch.testing.assert_close(
            reply.logits, prefilled(found, prepared, [*prompt[: BLOCK + 9], 3, 4, 5]).logits, rtol=0, atol=1e-4
        )
        assert reply.cached_tokens == (0 if adapter is None else BLOCK)


@torch.no_grad()
def test_a_causal_adapter_continues_from_its_own_cached_memory_and_shares_it_with_no_other(monkeypatch):
    monkeypatch.setattr(generation, "PROMPT_CHUNK", 2 * BLOCK)
    model, found, prefixes = tiny_model(), fast_decoder(), PrefixCache(10**8)
    adapter, other = (FastAdapter(found, adapter_for(model, "causal", token_term=term)) for term in (True, False))
    prompt = prompt_of(5 * BLOCK + 5)
    prefilled(found, adapter, prompt, prefixes)
    for length, known in ((5 * BLOCK + 5, 5), (4 * BLOCK + 20, 4), (3 * BLOCK + 20, 2), (BLOCK + 20, 0)):
        begun = [*prompt[:length], 3, 4, 5]
        reply = prefilled(found, adapter, begun, PrefixCacheView(prefixes))
        assert reply.cached_tokens == known * BLOCK
        torch.testing.assert_close(reply.logits, prefilled(found, adapter, begun).logits, rtol=0, atol=1e-4)
    assert prefilled(found, other, prompt, prefixes).cached_tokens == 0


class PrefixCacheView(PrefixCache):
    """A read-only view of another cache."""

    def __init__(self, other: PrefixCache) -> None:
        super().__init__(0)
        self.find = other.find

    def keep(self, scope, tokens, blocks) -> None:
        return


@torch.no_grad()
def test_a_pooling_over_the_prompt_uses_no_block_of_the_base_model():
    model, found, prefixes = tiny_model(), fast_decoder(), PrefixCache(10**8)
    prompt = prompt_of(2 * BLOCK + 5)
    prefilled(found, None, prompt, prefixes)
    adapter = FastAdapter(found, adapter_for(model, "prompt"))
    assert prefilled(found, adapter, prompt, prefixes).cached_tokens == 0
