"""Sampling against transformers' own processors, and against the expected frequencies."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lars_agent.runtime.request import Sampling
from lars_agent.runtime.sampling import Sampler

PROMPT = [3, 5, 3]
DRAWS = 4000
RARE = 2.5 / DRAWS  # words that are drawn once or twice


def logits(words: int = 40) -> torch.Tensor:
    return 2 * torch.randn(words, generator=torch.Generator().manual_seed(1))


def theirs(how: Sampling) -> torch.Tensor:
    """(V,) the shares by transformers' processors."""
    chain = LogitsProcessorList()
    if how.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    chain.append(TemperatureLogitsWarper(how.temperature))
    if how.top_k:
        chain.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        chain.append(TopPLogitsWarper(how.top_p))
    if how.min_p:
        chain.append(MinPLogitsWarper(how.min_p))
    return chain(torch.tensor([PROMPT]), logits()[None])[0].softmax(0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_k": 100},
        {"top_p": 0.7},
        {"top_p": 0.01},
        {"min_p": 0.1},
        {"repetition_penalty": 1.7},
        {"temperature": 1.4, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_words_are_drawn_as_often_as_transformers_processors_say(changes):
    how = Sampling(**{"temperature": 1.0} | changes)
    counts = torch.zeros(40)
    for seed in range(DRAWS):
        counts[Sampler(how, seed, PROMPT)(logits())] += 1
    wanted = theirs(how)
    assert counts[wanted == 0].sum() == 0
    deviation = (wanted * (1 - wanted) / DRAWS).sqrt()
    assert ((counts / DRAWS - wanted).abs() <= 4.5 * deviation + RARE).all()


def test_greedy_takes_the_likeliest_word_and_knows_no_seed():
    assert {Sampler(Sampling(top_p=0.5, top_k=2), seed, PROMPT)(logits()) for seed in range(5)} == {
        int(logits().argmax())
    }


def test_the_same_seed_draws_the_same_words_and_another_others():
    def words(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95), seed, PROMPT)
        return [sampler(logits()) for _ in range(20)]

    assert words(1) == words(1) != words(2)


def test_repetition_penalty_applies_to_the_reply_too():
    sampler = Sampler(Sampling(repetition_penalty=1e6), 0, PROMPT)
    said = [sampler(logits()) for _ in range(5)]
    assert len(set(said)) == 5


def test_the_logits_stay_as_they_are():
    given = logits()
    Sampler(Sampling(temperature=1.0, repetition_penalty=2.0, top_k=3, top_p=0.5), 0, PROMPT)(given)
    assert torch.equal(given, logits())


def test_openais_penalties_count_what_the_reply_has_said_and_not_the_prompt():
    said = int(logits().argmax())
    for how, taken in ((Sampling(frequency_penalty=1.5), 3.0), (Sampling(presence_penalty=1.5), 1.5)):
        sampler = Sampler(how, 0, [said])
        assert torch.equal(sampler._penalize(logits()), logits())
        for _ in range(2):
            sampler(torch.eye(40)[said] * 100)
        expected = logits()
        expected[said] -= taken
        torch.testing.assert_close(sampler._penalize(logits()), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"top_p": 5e-324},
        {"top_p": 1e-60, "repetition_penalty": 0.1},
        {"repetition_penalty": 5e-324},
        {"repetition_penalty": 1e300},
        {"temperature": 1e-300},
        {"top_p": 5e-324, "min_p": 1.0, "top_k": 1},
    ],
)
def test_the_smallest_and_largest_numbers_leave_a_word_to_draw(changes):
    sampler = Sampler(Sampling(**{"temperature": 1.0, **changes}), 0, PROMPT)
    assert all(0 <= sampler(logits()) < len(logits()) for _ in range(5))
