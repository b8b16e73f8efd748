"""OpenAI's dialect, on the engine's stand-in: shapes, streams, refusals, and what is stored."""

from __future__ import annotations

import json

import pytest

from tests.store.make import make_candidate, make_draft

HELLO = {"model": "default", "messages": [{"role": "user", "content": "Hello?"}]}


def events(answer) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_chat_s_reply_has_openai_s_shape_and_is_stored_under_its_id(client, daemon):
    body = client.post("/v1/chat/completions", json=HELLO).json()
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "echo: Hello?", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert body["object"] == "chat.completion"
    assert body["model"] == "base"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    stored = daemon.db.interactions.get(body["id"])
    assert (stored.response, stored.messages[-1]["content"]) == ("echo: Hello?", "Hello?")
    rated = client.post("/feedback", json={"interaction_id": body["id"], "rating": "up"})
    assert rated.status_code == 201


def test_a_streamed_chat_is_chunks_with_one_id_and_ends_with_done(client, daemon):
    asked = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(client.post("/v1/chat/completions", json=asked))
    assert done == "[DONE]"
    first, *middle, last, told = [json.loads(chunk) for chunk in chunks]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == "echo: Hello?"
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert told["choices"] == []
    assert told["usage"]["completion_tokens"] == 2
    assert {chunk["object"] for chunk in (first, *middle, last, told)} == {"chat.completion.chunk"}
    (name,) = {chunk["id"] for chunk in (first, *middle, last, told)}
    assert daemon.db.interactions.get(name).response == "echo: Hello?"


def test_text_completion_uses_the_prompt(client, engine):
    body = client.post("/v1/completions", json={"model": "base", "prompt": "Once"}).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "echo: Once"
    assert engine.tickets[-1].request.raw == "Once"
    *chunks, done = events(client.post("/v1/completions", json={"model": "base", "prompt": ["Once"], "stream": True}))
    assert "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks) == "echo: Once"
    assert done == "[DONE]"


def test_parameters_reach_the_engine(client, engine):
    client.post("/feedback", json={"prompt": "Hi", "response": "Yo", "rating": "up", "profile": "alice"})
    asked = {
        "model": "alice@base",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]},
        ],
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": "x",
        "seed": 5,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "user": "somebody",
        "n": 1,
    }
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    request = engine.tickets[-1].request
    assert [dict(message) for message in request.messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    assert (request.profile, request.version, request.max_new_tokens) == ("alice", None, 7)
    assert (request.temperature, request.top_p, request.stop, request.seed) == (0.5, 0.9, ("x",), 5)
    assert (request.frequency_penalty, request.presence_penalty, request.logprobs) == (0.5, -0.5, 2)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 129}, "n"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"model": 4}, "model"),
    ],
    ids=str,
)
def test_invalid_parameter_is_refused_by_name(client, changes, param):
    answer = client.post("/v1/chat/completions", json=HELLO | changes)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_models_are_the_base_the_profiles_and_their_versions(client, daemon, tmp_path):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["base", "default"]
    manifest = daemon.store.publish("alice", make_candidate(tmp_path), make_draft())
    daemon.store.activate("alice", manifest.version)
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert list(cards) == ["base", "alice", "alice@v1", "default"]
    assert (cards["alice"]["root"], cards["alice"]["parent"]) == ("alice@v1", "base")
    assert (cards["default"]["root"], cards["default"]["parent"]) == ("base", None)
    assert client.get("/v1/models/alice@v1").json() == cards["alice@v1"]
    assert client.get("/v1/models/bob@v7").status_code == 404


def test_the_base_model_s_own_name_means_no_adapter(client, engine):
    client.post("/v1/chat/completions", json=HELLO | {"model": "fake"})
    assert engine.tickets[-1].request.version is None


def test_a_stream_that_breaks_off_says_so(client, engine):
    from lars_agent.errors import GenerationError

    engine.break_reply = GenerationError("the kernel is gone")
    *_, error, done = events(client.post("/v1/chat/completions", json=HELLO | {"stream": True}))
    assert json.loads(error)["error"]["message"] == "the kernel is gone"
    assert done == "[DONE]"
