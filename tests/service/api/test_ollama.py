"""Ollama's dialect, on the engine's stand-in."""

from __future__ import annotations

import json
import math
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from safetensors.numpy import save_file

from lars_agent.models.facts import facts_of
from service.api.ollama.models import human_number
from service.api.ollama.request import keep_alive_s
from tests.service.api.conftest import SHA256, FakeModel
from tests.service.house import until
from tests.service.serving.test_model_host import REQUEST
from tests.store.make import make_candidate, make_draft

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
    assert client.post("/api/show", json={"model": "default"}).json()["capabilities"] == ["completion", "tools"]
    assert client.post("/api/show", json={"model": "nobody@v3"}).status_code == 404
    assert client.get("/api/version").json()["version"]


def test_probabilities_of_tokens_are_sent_if_asked_for(resident):
    for path, body in (("chat", HELLO), ("generate", {"prompt": "Hello?"})):
        *pieces, last = lines(resident.post(f"/api/{path}", json=body | {"logprobs": True}))
        assert [one["token"] for piece in pieces for one in piece["logprobs"]] == ["echo: ", "Hello?"]
        (one,) = pieces[0]["logprobs"]
        assert one == {"token": "echo: ", "logprob": -0.5, "bytes": list(b"echo: "), "top_logprobs": []}
        plain = lines(resident.post(f"/api/{path}", json=body | {"logprobs": False, "top_logprobs": 3}))
        assert not any("logprobs" in line for line in [last, *plain])
        assert resident.post(f"/api/{path}", json=body | {"logprobs": "yes"}).status_code == 422


EMPTY = (None, "", [], {})


@pytest.mark.parametrize("value", EMPTY)
def test_fields_of_messages_that_hold_nothing_are_ignored_as_are_unknown_ones(resident, value):
    names = ("images", "tool_calls", "thinking", "tool_name", "tool_call_id", "refusal", "x")
    empty = dict.fromkeys(names, value)
    history = [{"role": "assistant", **empty}, {"role": "assistant", "content": None, "thinking": "Hm.", "name": "Ann"}]
    turns = [{"role": "user", "content": "Hi"} | empty, *history, {"role": "user", "content": "Again"} | empty]
    body = HELLO | {"messages": turns, "stream": False, "shift": True, "anything": [1], "options": {"anything": 1}}
    assert resident.post("/api/chat", json=body).json()["message"]["content"] == "echo: Again"
    stored = resident.get("/interactions?limit=1").json()["interactions"][0]["messages"]
    assert [message["content"] for message in stored] == ["Hi", "", "", "Again"]
    generate = {"prompt": "Hi", "stream": False, "anything": 1} | dict.fromkeys(("images", "suffix", "template"), value)
    assert resident.post("/api/generate", json=generate).json()["response"] == "echo: Hi"


@pytest.mark.parametrize("name", ["images"])
@pytest.mark.parametrize("value", [["x"], [{}], "x", {"a": None}, 0, False, 1])
def test_a_field_of_a_message_that_would_change_the_reply_is_named(resident, name, value):
    turns = [{"role": "user", "content": "Hi", name: value}]
    answer = resident.post("/api/chat", json=HELLO | {"messages": turns})
    assert (answer.status_code, f"messages.0.{name}: is not supported" in answer.json()["error"]) == (422, True)
    for field in ("images", "suffix", "template"):
        answer = resident.post("/api/generate", json={"prompt": "Hi", field: value})
        assert (answer.status_code, field in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("think", "status"),
    [*((one, 200) for one in (True, False, None, "low", "medium", "high")), ("extreme", 422), (1, 422), ([], 422)],
)
def test_thinking_may_be_asked_for_in_all_ways_of_ollama_s(resident, think, status):
    for path, body in (("chat", HELLO), ("generate", {"prompt": "Hi"})):
        answer = resident.post(f"/api/{path}", json=body | {"think": think})
        assert (answer.status_code, status == 200 or "think" in answer.json()["error"]) == (status, True)


def test_a_system_message_alone_is_replied_to_and_states_nothing(client, engine, daemon):
    turns = [{"role": "system", "content": "By the way, my sister lives in Oslo."}]
    reply = client.post("/api/chat", json=HELLO | {"messages": turns, "stream": False}).json()
    assert daemon.db.interactions.get(reply["interaction_id"]).messages == tuple(turns)
    assert client.get("/feedback").json()["total"] == 0
    assert client.post("/api/chat", json=HELLO | {"messages": None}).json()["done_reason"] == "load"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "é"])
def test_a_body_is_json_whatever_its_content_type(resident, kind):
    headers = {} if kind is None else {"content-type": kind.encode()}
    for path, body in (("chat", HELLO), ("generate", {"prompt": "Hi"}), ("show", {"model": "default"})):
        assert resident.post(f"/api/{path}", content=json.dumps(body), headers=headers).status_code == 200, path
    refused = resident.post("/api/chat", content="model=default", headers=headers)
    assert (refused.status_code, "not JSON" in refused.json()["error"]) == (422, True)
    assert resident.post("/feedback", content=json.dumps({"prompt": "a"}), headers=headers).status_code == 422


def test_the_heartbeat_is_answered(resident):
    for method in ("HEAD", "GET"):
        for path in ("/", "/api/tags", "/api/version"):
            answer = resident.request(method, path, headers={"host": "localhost", "connection": "close"})
            assert (answer.status_code, method == "GET" or answer.content == b"") == (200, True), path


def test_each_listed_name_has_a_digest_of_its_own_and_a_profile_s_changes_with_its_version(client, daemon, tmp_path):
    def listed(path: str = "tags") -> dict[str, dict]:
        return {model["name"]: model for model in client.get(f"/api/{path}").json()["models"]}

    base = listed()["base"]
    assert base["digest"] == SHA256
    for _ in range(2):
        daemon.store.publish("default", make_candidate(tmp_path / "candidate"), make_draft(None))
    seen = set()
    for version in (1, 2):
        daemon.store.activate("default", version)
        models = listed()
        digests = {name: model["digest"] for name, model in models.items()}
        assert len(set(digests.values())) == len(models) == 4
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.values())
        files = [path.stat().st_size for path in daemon.store.folder("default", version).glob("adapter_*")]
        assert models["default"]["size"] == base["size"] + sum(files) == models[f"default@v{version}"]["size"]
        assert {name: model["digest"] for name, model in listed("ps").items()}.items() <= digests.items()
        seen |= set(digests.items())
    assert len(seen) == 5  # the profile's alone is another now
    (daemon.store.folder("default", 1) / "manifest.json").write_text("{")
    assert listed()["base"] == base


def test_a_model_is_described_by_the_names_that_clients_look_for(client, daemon, tmp_path, monkeypatch):
    sizes = {"max_position_embeddings": 8192, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float32)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(daemon.model_host, "installed", replace(FakeModel(), folder=tmp_path, sha256="c" * 64))
    shown = client.post("/api/show", json={"name": "default:latest", "system": "", "options": None}).json()
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.basename": "base",
        "general.parameter_count": 22,
        "llama.context_length": 8192,
        "llama.embedding_length": 8,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
    }
    assert shown["details"].items() >= {"family": "llama", "families": ["llama"], "parameter_size": "0.00M"}.items()
    assert tuple(map(int, client.get("/api/version").json()["version"].split("."))) >= (0, 6, 4)  # VS Code's least


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (134_515_008, "134.52M"), (8_030_261_248, "8.0B"), (10**9, "1.0B")]
)
def test_numbers_of_parameters_are_written_as_by_ollama(count, text):
    assert human_number(count) == text


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model_type": "llama", "hidden_size": "x"}', b"\xff"])
def test_files_that_cannot_be_read_tell_no_facts(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    facts = facts_of(tmp_path, "d" * 64)
    assert (facts.sizes, facts.parameters) == ({}, 0)


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
