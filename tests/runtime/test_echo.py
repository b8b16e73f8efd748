"""Echoed prompts, prompts of token ids, and replies that the client has begun, in the engine."""

from __future__ import annotations

import pytest
import torch

from lars_agent.errors import PromptRefused, PromptTooLong
from lars_agent.example import Message
from lars_agent.models.chat_template import encode_prompt
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, PastAnswer
from tests.runtime.conftest import publish

LONG_S = 60.0
ASKED = (Message(role="user", content="Who am I?"),)


@pytest.fixture(scope="module")
def engine(opened, tmp_path_factory):
    from lars_agent.store.adapters import AdapterStore

    made = Engine(opened, AdapterStore(tmp_path_factory.mktemp("adapters")), threads=1)
    yield made
    made.close()


def echoed(engine: Engine, raw, tokens: int = 1, **changes):
    asked = GenerationRequest((), raw=raw, echo=True, max_new_tokens=tokens, **{"logprobs": 2, **changes})
    ticket = engine.submit(asked)
    return list(ticket), ticket.result(LONG_S)


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_an_echoed_prompt_has_the_probabilities_of_one_forward_pass(engine, opened, tokens):
    text = "Once upon a time"
    ids = list(opened.tokenizer.encode(text))
    pieces, done = echoed(engine, text, tokens)
    assert (
        (pieces[0].text, pieces[0].logprobs) == (text, done.prompt_logprobs) == (done.prompt_text, pieces[0].logprobs)
    )
    first, *others = done.prompt_logprobs
    assert (first.chosen.token_id, first.chosen.logprob, first.top) == (ids[0], None, ())
    with torch.no_grad():
        expected = opened.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert [token.chosen.token_id for token in others] == ids[1:]
    for token, row in zip(others, expected, strict=False):
        assert token.chosen.logprob == pytest.approx(float(row[token.chosen.token_id]), abs=1e-4)
        assert [one.token_id for one in token.top] == row.topk(2).indices.tolist()
    plain = engine.submit(GenerationRequest((), raw=text, max_new_tokens=tokens)).result(LONG_S)
    assert done.token_ids == plain.token_ids
    assert (done.text, done.finish_reason) == (plain.text, plain.finish_reason)
    assert "".join(piece.text for piece in pieces) == text + done.text


def test_token_ids_are_the_prompt_as_they_are(engine, opened):
    ids = tuple(opened.tokenizer.encode("Once upon"))
    pieces, done = echoed(engine, ids, 3, logprobs=None)
    assert (done.prompt_text, done.prompt_tokens, done.prompt_logprobs) == ("Once upon", len(ids), ())
    assert pieces[0].text == "Once upon"
    same = engine.submit(GenerationRequest((), raw="Once upon", max_new_tokens=3)).result(LONG_S)
    assert (done.token_ids, same.prompt_text) == (same.token_ids, "")
    for wrong in ((300,), (-1,), ()):
        with pytest.raises(PromptRefused):
            engine.submit(GenerationRequest((), raw=wrong))


def test_a_prompt_that_fills_the_context_is_scored_but_has_no_reply(engine):
    full = (5,) * 512
    _, done = echoed(engine, full, 0)
    assert (len(done.prompt_logprobs), done.generated_tokens, done.finish_reason) == (512, 0, "length")
    with pytest.raises(PromptTooLong, match="the prompt has 512 tokens"):
        engine.submit(GenerationRequest((), raw=full, max_new_tokens=1))


def test_the_last_probability_is_there_where_the_reply_ends_at_once(engine, monkeypatch):
    _, done = echoed(engine, "Once", 1)
    (token,) = done.token_ids
    monkeypatch.setattr(engine._batcher, "_end_tokens", frozenset({token}))
    _, ended = echoed(engine, "Once", 1)
    assert (ended.finish_reason, ended.token_ids) == ("eos_token", ())
    assert [one.chosen.token_id for one in ended.logprobs] == [token]


def test_a_begun_reply_goes_on_behind_its_beginning(engine, opened):
    done = engine.submit(GenerationRequest(ASKED, prefill="You are ", max_new_tokens=5)).result(LONG_S)
    ids = [*encode_prompt(opened.tokenizer, ASKED), *opened.tokenizer.encode("You are ", add_special_tokens=False)]
    expected = opened.model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert list(done.token_ids) == [token for token in expected[0, len(ids) :].tolist() if token != 2]
    assert done.prompt_tokens == len(ids)


def test_a_recalled_answer_is_gone_on_with_where_the_reply_has_begun(engine):
    past = (PastAnswer("Who am I then?", "You are Mara.", fit="same"),)
    asked = GenerationRequest(ASKED, prefill="You are", max_new_tokens=40, recalled=past, recall_limit=1)
    strong = {"recall_tokens": 200, "recall_strength": 1000.0}
    done = engine.submit(GenerationRequest(**{**vars(asked), **strong})).result(LONG_S)
    assert done.text == " Mara."


def test_an_adapter_s_version_scores_the_prompt_as_it_replies(opened, store, tmp_path):
    publish(store, opened, tmp_path, 1)
    engine = Engine(opened, store, threads=1)
    try:
        ids = tuple(opened.tokenizer.encode("Once upon a"))
        _, done = echoed(engine, ids, 0, version=1, logprobs=0)
        _, base = echoed(engine, ids, 0, version=None, logprobs=0)
        for end in range(1, len(ids)):
            asked = GenerationRequest((), raw=ids[:end], version=1, max_new_tokens=1, logprobs=300)
            (token,) = engine.submit(asked).result(LONG_S).logprobs
            (same,) = [one for one in token.top if one.token_id == ids[end]]
            assert done.prompt_logprobs[end].chosen.logprob == pytest.approx(same.logprob, abs=1e-4)
        assert done.prompt_logprobs != base.prompt_logprobs
    finally:
        engine.close()
