"""Anthropic's messages, on the engine's stand-in: shapes, the events of a stream, refusals, and the token's header."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lars_agent.errors import GenerationError, QueueFull
from lars_agent.runtime.request import Generation
from service.api import anthropic
from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import client_of, fake_app, stream_events, wait_until

PATH = "/v1/messages"
HELLO = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello?"}]}
TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One client for all tests here, which share its database."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), server=Server(token=TOKEN))
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        client.headers["x-api-key"] = TOKEN
        yield client


def test_a_reply_has_anthropic_s_shape_and_is_stored_under_its_id(client, daemon):
    answer = client.post(PATH, json=HELLO, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x"})
    body = answer.json()
    assert {name: value for name, value in body.items() if name != "id"} == {
        "type": "message",
        "role": "assistant",
        "model": "base",
        "content": [{"type": "text", "text": "echo: Hello?"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
        },
        "lars": {"recalled": []},
    }
    assert daemon.db.interactions.get(body["id"]).response == "echo: Hello?"
    assert client.post("/feedback", json={"interaction_id": body["id"], "rating": "up"}).status_code == 201


def test_a_stream_is_anthropic_s_events_in_their_order(client, daemon):
    answer = client.post(PATH, json=HELLO | {"stream": True})
    found = list(stream_events(answer))
    assert [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event:")] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, _, *deltas, _, end, _ = found
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    assert "".join(event["delta"]["text"] for event in deltas) == "echo: Hello?"
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (3, 2)
    assert daemon.db.interactions.get(start["message"]["id"]).response == "echo: Hello?"


def test_system_blocks_and_turns_of_one_role_in_a_row_reach_the_engine(client, engine):
    block = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    asked = {
        "max_tokens": 7,
        "system": [block, {"type": "text", "text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "are you?"}]},
            {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": "Hello?"},
            {"role": "user", "content": "Hello!"},
        ],
        "stop_sequences": ["x", "y"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "metadata": {"user_id": "u"},
        "thinking": {"type": "disabled"},
        "tools": [],
        "service_tier": "auto",
    }
    assert client.post(PATH, json=asked).status_code == 200
    request = engine.tickets[-1].request
    assert [(turn["role"], turn["content"]) for turn in request.messages] == [
        ("system", "Be brief.\nBe kind."),
        ("user", "Who\nare you?"),
        ("assistant", "A dog."),
        ("user", "Hello?\nHello!"),
    ]
    assert (request.max_new_tokens, request.stop, request.temperature) == (7, ("x", "y"), 0.5)
    assert (request.top_p, request.top_k) == (0.9, 3)


def test_the_end_of_a_reply_and_cached_tokens_are_told_as_anthropic_does():
    whole = Generation("Hi", "stop_sequence", 10, 2, None, 0, (), cached_tokens=8, stop_sequence="END")
    *_, end, _ = anthropic._encode(whole)
    assert end["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert (end["usage"]["input_tokens"], end["usage"]["cache_read_input_tokens"]) == (2, 8)
    *_, end, _ = anthropic._encode(replace(whole, finish_reason="length", stop_sequence=None))
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}


BEGUN = {"role": "assistant", "content": "I"}


@pytest.mark.parametrize(
    ("changes", "status", "kind", "named"),
    [
        ({"max_tokens": None}, 422, "invalid_request_error", "max_tokens"),
        ({"model": "claude"}, 404, "not_found_error", "claude"),
        ({"messages": [{"role": "system", "content": "x"}]}, 422, "invalid_request_error", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 422, "invalid_request_error", "image"),
        ({"messages": [BEGUN]}, 422, "invalid_request_error", "a message to reply to"),
        ({"messages": [BEGUN, BEGUN]}, 422, "invalid_request_error", "a message to reply to"),
        ({"tools": [{"name": "x"}]}, 422, "invalid_request_error", "tools"),
        ({"output_config": {"format": {"type": "json_schema"}}}, 422, "invalid_request_error", "output_config"),
        ({"temperature": 1.5}, 422, "invalid_request_error", "temperature"),
        ({"no_such": 1}, 422, "invalid_request_error", "no_such"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_is_named_in_anthropic_s_shape(client, changes, status, kind, named):
    answer = client.post(PATH, json=HELLO | changes)
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert named in body["error"]["message"]
    assert body.keys() | body["error"].keys() == {"type", "error", "message"}


def test_errors_of_every_layer_have_anthropic_s_shape(client, engine, monkeypatch):
    monkeypatch.setattr(engine, "refuse_submit", QueueFull("the queue is full", 2))
    full = client.post(PATH, json=HELLO)
    assert (full.status_code, full.json()["error"]["type"]) == (503, "overloaded_error")
    assert full.headers["retry-after"] == "2"
    monkeypatch.setattr(engine, "refuse_submit", None)
    monkeypatch.setattr(engine, "break_reply", GenerationError("the kernel is gone"))
    *_, last = stream_events(client.post(PATH, json=HELLO | {"stream": True}))
    assert last == {"type": "error", "error": {"type": "overloaded_error", "message": "the kernel is gone"}}
    for answer, kind in (
        (client.get(PATH), "invalid_request_error"),
        (client.post(f"{PATH}/batches", json={}), "not_found_error"),
        (client.post(PATH, content=b"{", headers={"content-type": "application/json"}), "invalid_request_error"),
        (client.post(PATH, json=HELLO, headers={"host": "evil.example"}), "permission_error"),
    ):
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": TOKEN}, 200),
        ({"x-api-key": "", "authorization": f"Bearer {TOKEN}"}, 200),
        ({"x-api-key": "other", "authorization": f"Bearer {TOKEN}"}, 200),
        ({"x-api-key": TOKEN, "authorization": "Bearer other"}, 401),
        ({"x-api-key": "other"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "\xe4"}, 401),
    ],
)
def test_the_token_may_come_as_x_api_key(client, headers, status):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post(PATH, json=HELLO, headers=raw)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
