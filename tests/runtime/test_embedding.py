"""Embeddings by the engine: of which states, beside replies, and what is refused."""

from __future__ import annotations

import socket
import threading
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cosine_similarity

from lars_agent.errors import GenerationTimeout, PromptRefused, PromptTooLong, QueueFull
from lars_agent.lars import attach
from lars_agent.models.open import open_model
from lars_agent.runtime import embedding as embedding_module
from lars_agent.runtime.backend import choose_backend
from lars_agent.runtime.embedded import Embedded, embedded_from
from lars_agent.runtime.embedding import Embedder
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.engine_server import EngineServer
from lars_agent.runtime.hf_backend import HfBackend
from lars_agent.runtime.request import GenerationRequest
from lars_agent.runtime.rpc import RpcConnection
from tests.default_model import default_model_folder

MOST = 512 - len(embedding_module.BEFORE + embedding_module.BEHIND)  # tokens of a text; each byte is one
TEXTS = ["She lives in Oslo.", "Oslo"]


@pytest.fixture
def engine(opened, store):
    engine = Engine(opened, store, threads=1)
    yield engine
    engine.close()


def tensors(found: list[Embedded]) -> torch.Tensor:
    return torch.tensor([one.numbers().tolist() for one in found])


def test_a_vector_is_the_standardized_state_before_its_one_word_whatever_else_is_read_with_it(engine, opened):
    found = engine.embedder.embed(TEXTS)
    assert [one.tokens for one in found] == [len(opened.tokenizer.encode(text)) for text in TEXTS]
    mean, deviation = engine.embedder._common
    for text, vector in zip(TEXTS, tensors(found), strict=True):
        ids = opened.tokenizer.encode(f'This sentence: "{text}" means in one word: "', return_tensors="pt")
        state = opened.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].detach()
        expected = (state - mean) / deviation
        torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-3, rtol=1e-3)
    assert engine.embedder.embed([TEXTS[1]]) == [found[1]]
    assert engine.embedder.embed([opened.tokenizer.encode(TEXTS[0])]) == [found[0]]


def test_a_long_text_is_read_in_chunks_as_in_one(opened, monkeypatch):
    prompt = list(range(3, 103))
    attachment = attach(opened.model)
    try:
        backend = HfBackend(attachment)
        whole = torch.cat(list(backend.states(prompt)))
        monkeypatch.setattr("lars_agent.runtime.hf_backend.PROMPT_CHUNK", 33)
        parts = list(backend.states(prompt))
        assert len(parts) == 4
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(whole[-1], backend.embed(prompt), atol=1e-4, rtol=1e-4)
    finally:
        attachment.detach()


def test_what_all_texts_have_in_common_is_read_once_for_a_model(engine, opened, store):
    first = engine.embedder.embed(TEXTS)
    assert list(opened.folder.glob("embedding-*.safetensors"))
    again = Engine(opened, store, threads=1)
    try:
        read, states = [], again.embedder._states
        again.embedder._states = lambda prompt: [read.append(prompt), states(prompt)][1]
        assert again.embedder.embed(TEXTS) == first
        assert len(read) == len(TEXTS)
    finally:
        again.close()


def test_special_tokens_in_a_text_are_ordinary_text(engine, opened):
    special = opened.tokenizer.all_special_tokens[0]
    (found,) = engine.embedder.embed([special])
    assert found.tokens > 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("", PromptRefused, "is empty"),
        ([], PromptRefused, "is empty"),
        ([5, 300], PromptRefused, "token 300 is none of the model's 300"),
        ([-1], PromptRefused, "token -1"),
        ([5] * 512, PromptTooLong, f"has 512 tokens, at most {MOST}"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is(engine, given, error, message):
    engine.embedder._states = None
    with pytest.raises(error, match=message):
        engine.embedder.embed(["a", given])


def test_the_end_of_a_long_text_is_left_where_that_is_wanted(engine):
    long = [5 + number % 90 for number in range(600)]
    cut = long[:MOST]
    assert engine.embedder.embed([long], truncate=True) == engine.embedder.embed([cut])


def test_a_reply_goes_on_between_the_texts(engine, monkeypatch):
    engine.embedder.embed(["warm"])
    steps, step, states = [0], engine._batcher.step, engine.embedder._states
    monkeypatch.setattr(engine._batcher, "step", lambda: [steps.append(steps[-1] + 1), step()][1])
    read = []
    monkeypatch.setattr(engine.embedder, "_states", lambda prompt: [read.append(steps[-1]), states(prompt)][1])
    ticket = engine.submit(GenerationRequest(({"role": "user", "content": "a"},), max_new_tokens=400))
    engine.embedder.embed(["a text"] * 8)
    ticket.cancel()
    assert read[-1] - read[0] >= 3


def test_too_many_callers_and_too_slow_a_model_are_said(engine):
    engine.embedder.embed(["warm"])
    for _ in range(embedding_module.WAITING):
        assert engine.embedder._room.acquire(blocking=False)
    with pytest.raises(QueueFull, match="wait already"):
        engine.embedder.embed(TEXTS)
    engine.embedder._room.release()
    engine.embedder._deadline_s = -1
    with pytest.raises(GenerationTimeout, match="send fewer texts at once"):
        engine.embedder.embed(TEXTS)
    engine.embedder._deadline_s = 60
    engine.embedder.embed(TEXTS)


def test_embeddings_and_refusals_cross_the_socket(engine):
    ours, theirs = (RpcConnection(end) for end in socket.socketpair())
    server = threading.Thread(target=EngineServer(theirs, engine).serve)
    server.start()
    try:
        ours.send({"id": 1, "do": "embed", "inputs": [TEXTS[0], [5, 6]], "truncate": False})
        lines = iter(ours)
        found = embedded_from(next(lines)["value"])
        assert found == engine.embedder.embed([TEXTS[0], [5, 6]])
        ours.send({"id": 2, "do": "embed", "inputs": [""]})
        assert next(lines)["error"]["type"] == "PromptRefused"
    finally:
        ours.close()
        server.join(10)
        theirs.close()


@pytest.mark.real_model
def test_the_default_model_tells_paraphrases_from_other_sentences_however_they_end(tmp_path):
    groups = [
        (
            "The parcel arrived two days late.",
            "my package came later than promised",
            "The parcel shop is in Two Day Lane.",
        ),
        ("How can I get rid of ants?", "ways to drive ants out of the house", "What do ants eat?"),
        ("She broke her arm while skiing.", "On the slopes she fractured a bone", "She skied with a broken ski."),
        (
            "The bank raised its fees.",
            "It costs more to have an account there now",
            "The river bank was raised after the flood.",
        ),
    ]
    opened = open_model(default_model_folder(), torch.bfloat16)
    states = choose_backend(opened, 0).states
    embedder = Embedder(opened, states, lambda work: work(), model="test", context=2048, deadline_s=600)
    embedder._common_texts, embedder._file = embedder._common_texts[:20], tmp_path / "common.safetensors"
    vectors = [tensors(embedder.embed(group)) for group in groups]
    for one, other in pairwise([*vectors, vectors[0]]):
        assert cosine_similarity(one[0], one[1], dim=0) > cosine_similarity(one[0], other[1], dim=0)
