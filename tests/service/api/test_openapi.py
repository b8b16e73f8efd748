"""The page that FastAPI draws documents every request and every error."""

from __future__ import annotations

import re

import pytest

from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app

TEXT_BLOCK = {"type": "text", "text": "Hi"}
EXPECTED = {
    ("post", "/generate"),
    ("post", "/generate_stream"),
    ("post", "/v1/responses"),
    ("get", "/v1/responses/{response_id}"),
    ("delete", "/v1/responses/{response_id}"),
    ("post", "/v1/messages"),
    ("post", "/feedback"),
    ("get", "/feedback"),
    ("delete", "/feedback"),
    ("get", "/feedback/export"),
    ("post", "/feedback/import"),
    ("get", "/feedback/{feedback_id}"),
    ("delete", "/feedback/{feedback_id}"),
    ("get", "/interactions"),
    ("get", "/interactions/{interaction_id}"),
    ("delete", "/interactions/{interaction_id}"),
    ("get", "/adapters"),
    ("get", "/adapters/{version}"),
    ("post", "/adapters/{version}/activate"),
    ("post", "/adapters/rollback"),
    ("post", "/jobs"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("get", "/jobs/{job_id}/progress"),
    ("get", "/jobs/{job_id}/events"),
    ("post", "/jobs/{job_id}/pause"),
    ("post", "/jobs/{job_id}/resume"),
    ("post", "/jobs/{job_id}/cancel"),
    ("get", "/schedule/runs"),
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/info"),
    ("get", "/metrics"),
}
OLLAMA_ERROR_BODY = {"$ref": "#/components/schemas/OllamaErrorBody"}
ANTHROPIC_ERROR_BODY = {"$ref": "#/components/schemas/AnthropicErrorBody"}
ERROR_BODY = {"$ref": "#/components/schemas/ErrorBody"}


@pytest.fixture(scope="module")
def document(resident) -> dict:
    return resident.get("/openapi.json").json()


def operations(document: dict) -> dict[tuple[str, str], dict]:
    return {(verb, path): op for path, verbs in document["paths"].items() for verb, op in verbs.items()}


def test_every_operation_is_there_and_says_what_it_does(document):
    found = operations(document)
    assert set(found) >= EXPECTED
    assert [key for key in EXPECTED if not found[key].get("description")] == []


def test_every_error_has_our_body(document):
    for key, operation in operations(document).items():
        wrong = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"401", "403", "405", "413", "422", "429", "500"} <= set(wrong), key
        for status, answer in wrong.items():
            body = OLLAMA_ERROR_BODY if key[1].startswith("/api/") else ERROR_BODY
            body = ANTHROPIC_ERROR_BODY if key[1].startswith("/v1/messages") else body
            assert answer["content"]["application/json"]["schema"] == body, (key, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_request_body_is_documented(document):
    for key, operation in operations(document).items():
        if key in {("post", "/generate"), ("post", "/generate_stream"), ("post", "/feedback"), ("post", "/jobs")}:
            assert "schema" in operation["requestBody"]["content"]["application/json"], key
    body = operations(document)["post", "/feedback/import"]["requestBody"]
    for kind in ("application/jsonl", "application/x-ndjson"):
        assert body["content"][kind]["schema"]["items"]["anyOf"][0]["required"] == ["messages"]


def test_every_reference_resolves(document):
    names = document["components"]["schemas"]

    def references(value):
        if isinstance(value, dict):
            yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    assert {ref.rsplit("/", 1)[1] for ref in references(document)} <= set(names)


def test_limits_are_documented(document):
    rating = document["components"]["schemas"]["FeedbackRequest"]["properties"]["rating"]
    assert {"type": "number", "minimum": -1, "maximum": 1} in rating["anyOf"][0].get("anyOf", rating["anyOf"])
    assert document["components"]["schemas"]["Parameters"]["properties"]["top_p"]["anyOf"][0]["maximum"] == 1


def everywhere(value):
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from everywhere(inner)


def test_a_parameter_can_be_left_out_but_is_never_null(document):
    parameters = [one for operation in operations(document).values() for one in operation.get("parameters", ())]
    assert len(parameters) > 30
    assert [one["name"] for one in parameters if {"type": "null"} in everywhere(one["schema"])] == []


def test_all_limits_are_json_schema_s(document):
    assert [one for one in everywhere(document) if {"ge", "gt", "le", "lt"} & one.keys()] == []
    tokens = document["components"]["schemas"]["CompletionRequest"]["properties"]["max_tokens"]["anyOf"][0]
    assert tokens == {"type": "integer", "minimum": -1, "maximum": 1_000_000}


def test_the_token_is_documented_where_there_is_one(document, tmp_path):
    assert [key for key, operation in operations(document).items() if "security" in operation] == []
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": "t" * 16})
    with client_of(fake_app(settings)) as client:
        guarded = client.get("/openapi.json").json()
    without = {path for (_, path), operation in operations(guarded).items() if "security" not in operation}
    assert without == {"/health", "/ready"}
    assert guarded["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("Turn", "hi", True),
        ("Turn", " \u00a0\u2029\x1f", False),
        ("Turn", "\ufeff", True),
        ("Turn", "a\0b", False),
    ],
)
def test_a_blank_text_is_described_as_it_is_refused(resident, document, name, text, fits):
    of_user = document["components"]["schemas"][name]["anyOf"][1]["properties"]
    assert of_user["role"]["enum"] == ["system", "user"]
    assert bool(re.search(of_user["content"]["pattern"], text)) == fits
    answer = resident.post("/generate", json={"inputs": [{"role": "user", "content": text}]})
    assert (answer.status_code == 200) == fits


def test_settings_and_feedback_are_described_with_their_rules(document):
    schemas = document["components"]["schemas"]
    assert schemas["SettingChanges"]["additionalProperties"] is False
    assert "schedule.cron" in schemas["SettingChanges"]["properties"]
    assert "server.token" not in schemas["SettingChanges"]["properties"]
    about, says = schemas["FeedbackRequest"]["allOf"]
    assert [one["required"] for one in about["anyOf"]] == [
        ["interaction_id"],
        ["prompt", "response"],
        ["messages", "response"],
    ]
    assert [one["required"] for one in says["anyOf"]] == [["rating"], ["correction"], ["comment"], ["tags"]]
    assert schemas["FeedbackPatch"]["minProperties"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 5.0, "temperature": 0, "top_k": 3}}),
        ("/v1/completions", {"prompt": ["Hi"], "stop": "x", "user": 7, "n": 2.0, "temperature": 1}),
        ("/v1/completions", {"prompt": [[1, 2], "Hi"], "echo": True, "max_tokens": 0, "logprobs": 0, "unknown": [1]}),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "Hi"}], "max_tokens": -1, "n": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi", "tool_calls": []}], "unknown": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "user": 7}),
        (
            "/v1/messages",
            {"max_tokens": 5.0, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}], "stream": False, "keep_alive": "1h30m"}),
        ("/api/generate", {"prompt": "Hi", "stream": False, "options": {"num_predict": 5.0, "mirostat": "x"}}),
    ],
)
def test_every_spelling_that_is_documented_is_accepted(resident, path, body):
    assert resident.post(path, json=body).status_code == 200
