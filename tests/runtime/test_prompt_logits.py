"""Probabilities of a prompt's tokens: the teacher-forced pass's, in both decoders and with every adapter."""

from __future__ import annotations

import pytest
import torch

from lars_agent.lars import attach, reply_logits
from lars_agent.lars import decoding as hf
from lars_agent.lars.decoding import rows_at_once
from lars_agent.runtime.fast_backend import FastBackend
from lars_agent.runtime.fast_decoder import build_fast_decoder
from lars_agent.runtime.hf_backend import HfBackend
from lars_agent.runtime.prefix_cache import PrefixCache
from lars_agent.training.batches import Encoded, collate
from tests.lars.test_serving import MODES, adapter_for
from tests.runtime.test_fast_decoder import prompt_of
from tests.tiny import tiny_model

LENGTH = 12


def teacher_forced(attachment, adapter, prompt) -> torch.Tensor:
    """(T - 1, V) log-probabilities: each token as the reply to the prompt before it, in one pass over all of these."""
    rows = [Encoded(tuple(prompt[:end]), (prompt[end],), 1.0, "") for end in range(1, len(prompt))]
    return reply_logits(attachment, adapter, collate(rows, 0)).log_softmax(-1)


CASES = [
    *((family, pooling, True) for family in ("llama", "gpt2") for pooling in (None, *MODES)),
    *((family, "response", False) for family in ("llama", "gpt2", "qwen3", "gemma")),
]


@pytest.mark.parametrize(("family", "pooling", "token_term"), CASES)
@torch.no_grad()
def test_a_prompt_s_tokens_have_the_probabilities_of_the_forward_pass(family, pooling, token_term, monkeypatch):
    monkeypatch.setattr(hf, "MOST_ROWS", 4)  # several chunks
    model, prompt = tiny_model(family), prompt_of(LENGTH)
    attachment = attach(model)
    adapter = None if pooling is None else adapter_for(model, pooling, token_term=token_term)
    expected = teacher_forced(attachment, adapter, prompt)
    decoder = build_fast_decoder(model)
    assert (decoder is not None) == (family in ("llama", "qwen3"))
    backend = HfBackend(attachment) if decoder is None else FastBackend(decoder, PrefixCache(0))
    parts = list(backend.prompt_logits(None if adapter is None else backend.prepare(adapter), prompt))
    assert max(len(part) for part in parts) <= 4
    found = torch.cat(parts).log_softmax(-1)
    assert len(found) == LENGTH
    torch.testing.assert_close(found[:-1], expected, rtol=0, atol=2e-4)
    if adapter is not None:
        assert (expected - teacher_forced(attachment, None, prompt)).abs().max() > 1e-2


def test_the_logits_of_a_long_prompt_are_never_all_there_at_once():
    assert rows_at_once(300) == 64
    assert all(rows_at_once(size) * size * 4 <= 16 * 2**20 for size in (49_152, 151_936, 262_144))
    assert rows_at_once(10**9) == 1
