"""Ollama's dialect, on the engine's stand-in."""

from __future__ import annotations

import json
import math
import threading
from datetime import UTC, datetime, timedelta

import pytest

from service.api.ollama.request import keep_alive_s
from tests.service.house import until
from tests.service.serving.test_model_host import REQUEST

HELLO = {"model": "default:latest", "messages": [{"role": "user", "content": "Hello?"}]}


def lines(answer) -> list[dict[str, object]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_chat_comes_in_lines_and_is_stored(client, daemon):
    answer = client.post("/api/chat", json=HELLO)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *pieces, last = lines(answer)
    assert "".join(piece["message"]["content"] for piece in pieces) == "echo: Hello?"
    assert all(piece["done"] is False and piece["model"] == "base" for piece in pieces)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 2)
    assert daemon.db.interactions.get(last["interaction_id"]).response == "echo: Hello?"


def test_a_prompt_may_be_answered_whole(client, engine):
    body = client.post("/api/generate", json={"model": "base", "prompt": "Hi", "system": "Be brief.", "stream": False})
    assert body.json()["response"] == "echo: Hi"
    assert [message["role"] for message in engine.tickets[-1].request.messages] == ["system", "user"]
    client.post("/api/generate", json={"model": "base", "prompt": "Hi", "raw": True, "stream": False})
    assert engine.tickets[-1].request.raw == "Hi"


def test_options_reach_the_engine_and_unknown_ones_pass(client, engine):
    options = {"temperature": 0, "top_k": 3, "num_predict": 9, "seed": 4, "stop": ["x"], "num_ctx": 4096, "mirostat": 1}
    assert client.post("/api/chat", json=HELLO | {"options": options, "keep_alive": "5m"}).status_code == 200
    request = engine.tickets[-1].request
    assert (request.temperature, request.top_k, request.max_new_tokens) == (0.0, 3, 9)
    assert (request.seed, request.stop) == (4, ("x",))


def test_models_are_listed_and_shown(client):
    assert [model["name"] for model in client.get("/api/tags").json()["models"]] == ["base", "default"]
    assert [model["name"] for model in client.get("/api/ps").json()["models"]] == ["base", "default"]
    assert client.post("/api/show", json={"model": "default"}).json()["capabilities"] == ["completion"]
    assert client.post("/api/show", json={"model": "nobody@v3"}).status_code == 404
    assert client.get("/api/version").json()["version"]


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        {"tools": [{}]},
        {"format": "xml"},
        {"model": 4},
        {"keep_alive": []},
    ],
)
def test_invalid_request_is_refused_in_ollama_s_shape(client, changes):
    answer = client.post("/api/chat", json=HELLO | changes)
    assert answer.status_code == 422
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize(
    ("path", "text"), [("chat", {"message": {"role": "assistant", "content": ""}}), ("generate", {"response": ""})]
)
def test_empty_request_loads_or_unloads_the_model(client, daemon, path, text):
    unloaded = client.post(f"/api/{path}", json={"model": "default", "keep_alive": 0}).json()
    assert unloaded.items() >= (text | {"done": True, "done_reason": "unload"}).items()
    until(lambda: daemon.model_host.is_asleep, "the model is unloaded")
    assert client.get("/api/ps").json() == {"models": []}
    loaded = client.post(f"/api/{path}", json={"model": "default", "keep_alive": "1h"}).json()
    assert loaded["done_reason"] == "load"
    (entry, *_) = client.get("/api/ps").json()["models"]
    left = datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(hours=1)


def test_keep_alive_of_zero_unloads_the_model_after_the_reply(client, daemon, engine):
    engine.gate.clear()
    ticket = daemon.model_host.submit(REQUEST, 0.0)
    assert not threading.Event().wait(0.5)
    assert not daemon.model_host.is_asleep
    engine.gate.set()
    assert ticket.result().text == "echo: Hello?"
    until(lambda: daemon.model_host.is_asleep, "the model is unloaded")


def test_unloading_request_applies_once(client, daemon):
    client.post("/api/generate", json={"model": "default", "keep_alive": 0})
    until(lambda: daemon.model_host.is_asleep, "the model is unloaded")
    with daemon.model_host.engine():
        pass
    assert not threading.Event().wait(0.5)
    assert not daemon.model_host.is_asleep


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (90, 90),
        ("90", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("300ms", 0.3),
        (-1, math.inf),
        ("-5m", math.inf),
        ("999999999999", math.inf),
    ],
)
def test_durations(value, seconds):
    assert keep_alive_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "soon", "5x", "m5", "5 m", "1h-3m", "9" * 50 + "s", math.nan, [], {}, 10**400])
def test_no_durations(value):
    with pytest.raises(ValueError, match="duration"):
        keep_alive_s(value)
