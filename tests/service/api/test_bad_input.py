"""Whatever a client sends: a clear error in one shape, and nothing has changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from tests.service.db.conftest import add_interaction

SAID = {"prompt": "Hi", "response": "Yo"}


@pytest.fixture(scope="module")
def client(resident):
    return resident


@pytest.fixture(scope="module")
def daemon(client):
    return client.app.state.daemon


@pytest.fixture(scope="module")
def interaction_id(daemon) -> str:
    return add_interaction(daemon.db, "default")


@pytest.fixture(autouse=True)
def unchanged(daemon, interaction_id, engine):
    """After each of these tests the database holds what it held before, and nothing was generated."""
    before = dump(daemon.db.path)
    yield
    assert dump(daemon.db.path) == before
    assert engine.tickets == []


def dump(path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def error_of(response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["code"] == status
    assert "Traceback" not in response.text
    return error


def test_unknown_interaction_is_not_found(client):
    error = error_of(client.post("/feedback", json={"interaction_id": "i-none", "rating": "up"}), 404)
    assert error == {
        "message": "there is no interaction 'i-none'",
        "type": "not_found_error",
        "code": 404,
        "param": None,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("correction", ""),
        ("correction", "  \n"),
        ("correction", 7),
        ("correction", "a\0b"),
        ("correction", "\ud800"),
        ("comment", "\udfff tail"),
        ("rating", 7),
        ("rating", -1.01),
        ("rating", "good"),
        ("rating", "0.5"),
        ("rating", True),
        ("rating", []),
        ("rating", float("nan")),
        ("rating", float("inf")),
        ("rating", 10**400),
        ("profile", "../etc"),
        ("profile", "base"),
        ("profile", "v2"),
        ("profile", ""),
        ("profile", "Alice"),
        ("tags", "x"),
        ("tags", [""]),
        ("tags", ["x"] * 33),
        ("tags", ["\0"]),
        ("raiting", 1),
        ("response", "text that the interaction has already"),
        ("interaction_id", "\0"),
        ("interaction_id", "\ud800"),
        ("interaction_id", 5),
        ("interaction_id", "i" * 101),
    ],
)
def test_bad_field_of_feedback_is_named(client, interaction_id, field, value):
    body = {"interaction_id": interaction_id, "comment": "x", field: value}
    error = error_of(post_json(client, "/feedback", body), 422)
    assert (error["param"] or "").split(".")[0] == field
    assert error["message"].startswith(field)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "interaction_id"),
        ({"rating": 1}, "interaction_id"),
        ({"prompt": "Hi", "rating": 1}, "response"),
        ({"response": "Yo", "rating": 1}, "prompt"),
        ({**SAID, "messages": [{"role": "user", "content": "Hi"}], "rating": 1}, "messages"),
        (SAID, "rating"),
        ({**SAID, "comment": ""}, "rating"),
        ({"messages": [], "response": "Yo", "rating": 1}, "messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}], "response": "Yo", "rating": 1}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}], "response": "Yo", "rating": 1}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}], "response": "Yo", "rating": 1}, "messages.0.content"),
        ({"messages": [{"role": "user"}], "response": "Yo", "rating": 1}, "messages.0.content"),
        ({"messages": {"role": "user"}, "response": "Yo", "rating": 1}, "messages"),
        ({**SAID, "rating": 1, "\ud800": 1}, None),
        ([SAID], None),
        ("text", None),
        (None, None),
    ],
)
def test_fields_that_do_not_go_together_are_named(client, body, param):
    assert error_of(post_json(client, "/feedback", body), 422)["param"] == param


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ({"max_new_tokens": 10**30}, "parameters.max_new_tokens"),
        ({"max_new_tokens": 1.5}, "parameters.max_new_tokens"),
        ({"temperature": -1}, "parameters.temperature"),
        ({"temperature": 1e-30}, "parameters.temperature"),
        ({"temperature": float("nan")}, "parameters.temperature"),
        ({"temperature": float("inf")}, "parameters.temperature"),
        ({"top_p": 0}, "parameters.top_p"),
        ({"top_p": 1.1}, "parameters.top_p"),
        ({"top_p": float("nan")}, "parameters.top_p"),
        ({"top_k": -1}, "parameters.top_k"),
        ({"repetition_penalty": 0}, "parameters.repetition_penalty"),
        ({"stop": "x"}, "parameters.stop"),
        ({"stop": [""]}, "parameters.stop.0"),
        ({"stop": ["\ud800"]}, "parameters.stop.0"),
        ({"stop": ["x"] * 17}, "parameters.stop"),
        ({"seed": -1}, "parameters.seed"),
        ({"seed": 2**63}, "parameters.seed"),
        ({"adapter_id": 3}, "parameters.adapter_id"),
        ({"adapter_id": "x" * 201}, "parameters.adapter_id"),
        ({"best_of": 3}, "parameters.best_of"),
        ({"grammar": {"type": "json"}}, "parameters.grammar"),
        ({"max_tokens": 3}, "parameters.max_tokens"),
        ([], "parameters"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_bad_parameter_of_generation_is_named(client, path, parameters, param):
    error = error_of(post_json(client, path, {"inputs": "Hi", "parameters": parameters}), 422)
    assert error["param"] == param


@pytest.mark.parametrize(
    "inputs", ["", " ", [], 3, None, "\ud800", "a\0", [{"role": "user", "content": "\ud800"}], [3]]
)
def test_bad_inputs_are_named(client, inputs):
    error = error_of(post_json(client, "/generate", {"inputs": inputs}), 422)
    assert error["param"].split(".")[0] == "inputs"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs": ' + b"9" * 5000 + b"}",
        b'{"inputs": "x"} trailing',
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/feedback", "/jobs"])
def test_body_that_is_not_json_is_refused(client, path, body):
    if path == "/jobs" and not body:
        return  # no body is a body there
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    error = error_of(response, response.status_code)
    assert response.status_code in (400, 422)
    assert "body" in error["message"]


def test_json_without_its_content_type_is_refused(client):
    response = client.post("/generate", content=b'{"inputs": "x"}', headers={"content-type": "text/plain"})
    assert "send" in error_of(response, 422)["message"] or "Content-Type: application/json" in response.text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/feedback", "/jobs"])
def test_prompt_of_two_megabytes_is_too_large(client, path, chunked):
    body = json.dumps({"inputs": "x" * 2_000_000}).encode()
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    headers = {"content-type": "application/json"}
    error = error_of(client.post(path, content=pieces if chunked else body, headers=headers), 413)
    assert "larger than 1,000,000 bytes" in error["message"]


def test_content_length_that_lies_is_counted(client):
    headers = {"content-type": "application/json", "content-length": "10"}
    body = json.dumps({"inputs": "x" * 2_000_000}).encode()
    error_of(client.post("/generate", content=body, headers=headers), 413)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/feedback", None),
        ("GET", "/generate", "POST"),
        ("DELETE", "/jobs/x", "GET"),
        ("POST", "/health", "GET"),
    ],
)
def test_wrong_method_is_refused(client, method, path, allowed):
    response = client.request(method, path)
    error = error_of(response, 405)
    assert method in error["message"]
    assert "allow" in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/static/nothing",
        "/feedback/f-none",
        "/interactions/i-none",
        "/jobs/j-none",
        "/jobs/j-none/events",
        "/jobs/j-none/progress",
        "/adapters/v1",
        "/adapters/base",
        "/adapters/v999999999",
    ],
)
def test_what_is_not_there_is_not_found(client, path):
    assert error_of(client.get(path), 404)["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"inputs": "Hi", "stream": 0}, "stream"),
        ("/generate", {"inputs": "Hi", "parameters": {"do_sample": 1}}, "parameters.do_sample"),
        ("/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": "5"}}, "parameters.max_new_tokens"),
        ("/generate", {"inputs": "Hi", "parameters": {"top_p": "0.5"}}, "parameters.top_p"),
        ("/generate", {"inputs": "Hi", "parameters": {"watermark": 0}}, "parameters.watermark"),
        ("/v1/completions", {"prompt": "Hi", "logprobs": False}, "logprobs"),
        ("/v1/completions", {"prompt": "Hi", "n": True}, "n"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": "no"}, "stream"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": True}, "max_tokens"),
    ],
)
def test_a_value_of_another_type_is_not_taken_for_the_right_one(client, path, body, param):
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": [], "think": 0}),
        ("/api/generate", {"prompt": "", "context": [False]}),
        ("/api/generate", {"prompt": "", "keep_alive": True}),
        ("/api/generate", {"prompt": "", "keep_alive": "\u0665m"}),
        ("/api/show", {"verbose": 1}),
    ],
)
def test_a_value_of_another_type_is_refused_in_ollama_s_words(client, path, body):
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert list(body)[-1] in response.json()["error"]


@pytest.mark.parametrize("reference", ["x" * 300, "~nobody-of-that-name/model", "00", "/nowhere/at/all"])
def test_what_names_no_model_is_not_found(client, reference):
    response = client.get("/models/preview", params={"reference": reference})
    assert response.status_code == 404


def test_a_time_before_all_time_selects_nothing_and_one_after_it_everything(client):
    assert client.get("/feedback?before=0001-01-01T00:00:00%2B01:00").json()["total"] == 0
    everything = client.get("/feedback").json()["total"]
    assert client.get("/feedback?before=9999-12-31T23:59:59-01:00").json()["total"] == everything


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/feedback?limit=0", "limit"),
        ("GET", "/feedback?limit=99999999999999999999", "limit"),
        ("GET", "/feedback?limt=3", "limt"),
        ("GET", "/feedback?before=yesterday", "before"),
        ("GET", "/feedback?before=2026-01-01T00:00:00", "before"),
        ("GET", "/feedback?tag=%00", "tag"),
        ("GET", "/feedback?profile=A", "profile"),
        ("GET", "/feedback?before=0.5", "before"),
        ("DELETE", "/feedback?before=2026-01-01%2000:00:00Z", "before"),
        ("GET", "/adapters?verify=1", "verify"),
        ("POST", "/feedback/import?dry_run=yes", "dry_run"),
        ("GET", "/feedback/export?format=csv", "format"),
        ("GET", "/interactions?limit=x", "limit"),
        ("GET", "/interactions/%00", "interaction_id"),
        ("GET", "/adapters?profile=..", "profile"),
        ("GET", "/adapters/3", "version"),
        ("GET", "/adapters/v01", "version"),
        ("POST", "/adapters/latest/activate", "version"),
        ("POST", "/jobs?dry_run=perhaps", "dry_run"),
        ("POST", "/feedback?profile=x", "profile"),
        ("DELETE", "/feedback", "profile"),
        ("DELETE", "/feedback?tags=x", "tags"),
        ("DELETE", "/feedback?before=99999999999999999999", "before"),
    ],
)
def test_bad_query_is_named(client, method, path, param):
    body = {"json": {**SAID, "rating": 1}} if path.startswith("/feedback?profile=x") and method == "POST" else {}
    assert error_of(client.request(method, path, **body), 422)["param"] == param


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_bad_idempotency_key_is_named(client, key):
    error = error_of(client.post("/feedback", json={**SAID, "rating": 1}, headers={"Idempotency-Key": key}), 422)
    assert error["param"] == "idempotency-key"


def test_wrong_value_is_quoted_but_cut_short(client):
    error = error_of(client.post("/feedback", json={**SAID, "rating": "x" * 10_000}), 422)
    assert "not 'xxx" in error["message"]
    assert len(error["message"]) < 200


def test_unexpected_error_shows_no_trace(client, daemon, monkeypatch):
    monkeypatch.setattr(daemon.db.interactions, "get", lambda _: 1 / 0)
    error = error_of(client.get("/interactions/x"), 500)
    assert error["message"] == "something went wrong here; the daemon's log says what"


def post_json(client, path, body):
    """Posts what httpx itself would refuse to write: NaN and lone surrogates."""
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
