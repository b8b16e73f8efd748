"""The lean model against transformers', and several replies at once against each alone."""

from __future__ import annotations

import pytest
import torch

from lars_agent.lars import attach
from lars_agent.runtime import fast_decoder as lean
from lars_agent.runtime import generation as replying
from lars_agent.runtime.constant_delta import LeanAdapter
from lars_agent.runtime.fast_decoder import LeanModel, lean_model
from lars_agent.runtime.generation import Reply, Stepper
from lars_agent.runtime.prefix_cache import BLOCK, PrefixCache
from tests.lars.test_serving import MODES, adapter_for, rows, served_logits
from tests.tiny import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "mistral"]
ROOM = 10


def read(model: LeanModel, adapter: LeanAdapter | None, prompt, prefixes: PrefixCache | None = None) -> Reply:
    reply = Reply(model, adapter, prompt, ROOM, prefixes)
    for _ in reply.read():
        pass
    return reply


def lean_of(family: str = "llama") -> LeanModel:
    found = lean_model(tiny_model(family))
    assert found is not None
    return found


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 120, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("token_term", [True, False])
@pytest.mark.parametrize("pooling", [None, *MODES])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_replies_made_together_have_the_logits_that_each_has_alone(family, pooling, token_term):
    model = tiny_model(family)
    attachment, found = attach(model), lean_model(model)
    assert found is not None
    adapter = None if pooling is None else adapter_for(model, pooling, token_term=token_term)
    examples = rows()
    replies = [read(found, adapter and LeanAdapter(found, adapter), row.prompt) for row in examples]
    logits = [[reply.logits] for reply in replies]
    stepper = Stepper(found)
    for place in range(max(len(row.reply) for row in examples) - 1):
        going = [index for index, row in enumerate(examples) if place < len(row.reply) - 1]
        stepper.step([replies[index] for index in going], [examples[index].reply[place] for index in going])
        for index in going:
            logits[index].append(replies[index].logits)
    for row, ours in zip(examples, logits, strict=True):
        expected = served_logits(attachment, adapter, row).log_softmax(-1)
        torch.testing.assert_close(torch.stack(ours).log_softmax(-1), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_replies_with_different_adapters_and_with_none_share_a_pass():
    model = tiny_model()
    found = lean_of()
    adapters = [None, *(adapter_for(model, pooling, token_term=True) for pooling in ("response", "prompt", "causal"))]
    adapters.append(adapter_for(model, "response", token_term=False))
    leaned = [adapter and LeanAdapter(found, adapter) for adapter in adapters]
    prompt = prompt_of(9)
    together, alone = ([read(found, adapter, prompt) for adapter in leaned] for _ in range(2))
    for token in (5, 17):
        Stepper(found).step(together, [token] * len(together))
        for reply in alone:
            Stepper(found).step([reply], [token])
    for ours, its_own in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.logits, its_own.logits, rtol=0, atol=1e-4)
    assert len({tuple(reply.logits.tolist()) for reply in alone}) == len(alone)


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma"])
def test_a_model_that_is_built_otherwise_is_left_alone(family):
    assert lean_model(tiny_model(family)) is None


def test_a_model_that_computes_otherwise_is_found_out(monkeypatch):
    monkeypatch.setattr(lean.LeanModel, "_mlp", lambda self, index, layer, x, acting: x)
    assert lean_model(tiny_model()) is None


@pytest.mark.parametrize("pooling", [None, "response", "causal"])
@pytest.mark.parametrize("length", [2, BLOCK, BLOCK + 1, BLOCK + 2, 3 * BLOCK + 7])
@torch.no_grad()
def test_a_prompt_that_was_read_before_gives_the_same_to_the_last_bit(pooling, length):
    model, found, prefixes = tiny_model(), lean_of(), PrefixCache(10**8)
    adapter = None if pooling is None else LeanAdapter(found, adapter_for(model, pooling))
    prompt = prompt_of(length)
    alone = read(found, adapter, prompt)
    cold, warm = (read(found, adapter, prompt, prefixes) for _ in range(2))
    assert cold.known == 0
    assert warm.known == (length - 1) // BLOCK * BLOCK
    for reply in (cold, warm):
        assert torch.equal(reply.logits, alone.logits)
        Stepper(found).step([reply], [7])
    assert torch.equal(cold.logits, warm.logits)


@torch.no_grad()
def test_what_one_adapter_read_serves_another_and_the_base_model():
    model, found, prefixes = tiny_model(), lean_of(), PrefixCache(10**8)
    prompt = prompt_of(2 * BLOCK + 5)
    for adapter in (None, adapter_for(model, "response"), adapter_for(model, "response", token_term=False)):
        leaned = adapter and LeanAdapter(found, adapter)
        reply = read(found, leaned, [*prompt[: BLOCK + 9], 3, 4, 5], prefixes)
        torch.testing.assert_close(
            reply.logits, read(found, leaned, [*prompt[: BLOCK + 9], 3, 4, 5]).logits, rtol=0, atol=1e-4
        )
        assert reply.known == (0 if adapter is None else BLOCK)


@torch.no_grad()
def test_a_causal_adapter_goes_on_from_what_it_remembers_and_shares_it_with_no_other(monkeypatch):
    monkeypatch.setattr(replying, "PROMPT_CHUNK", 2 * BLOCK)
    model, found, prefixes = tiny_model(), lean_of(), PrefixCache(10**8)
    adapter, other = (LeanAdapter(found, adapter_for(model, "causal", token_term=term)) for term in (True, False))
    prompt = prompt_of(5 * BLOCK + 5)
    read(found, adapter, prompt, prefixes)
    for length, known in ((5 * BLOCK + 5, 5), (4 * BLOCK + 20, 4), (3 * BLOCK + 20, 2), (BLOCK + 20, 0)):
        begun = [*prompt[:length], 3, 4, 5]
        reply = read(found, adapter, begun, PrefixCacheView(prefixes))
        assert reply.known == known * BLOCK
        torch.testing.assert_close(reply.logits, read(found, adapter, begun).logits, rtol=0, atol=1e-4)
    assert read(found, other, prompt, prefixes).known == 0


class PrefixCacheView(PrefixCache):
    """Another's blocks, to which nothing is added."""

    def __init__(self, other: PrefixCache) -> None:
        super().__init__(0)
        self.find = other.find

    def keep(self, scope, tokens, blocks) -> None:
        return


@torch.no_grad()
def test_a_mode_that_acts_on_the_prompt_takes_nothing_of_the_base_models():
    model, found, prefixes = tiny_model(), lean_of(), PrefixCache(10**8)
    prompt = prompt_of(2 * BLOCK + 5)
    read(found, None, prompt, prefixes)
    adapter = LeanAdapter(found, adapter_for(model, "prompt"))
    assert read(found, adapter, prompt, prefixes).known == 0
