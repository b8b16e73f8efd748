"""Grammars and biases in every dialect: their way to the engine, and the field that an error names."""

from __future__ import annotations

import json

import pytest

from lars_agent.errors import ParameterRefused
from lars_agent.runtime.request import Grammar

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"enum": ["é", None]}}, "required": ["z"]}
TEXT, ANY = json.dumps(SCHEMA), '{"type": "object"}'
HELLO = [{"role": "user", "content": "Hello?"}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
OPENAI, IN_SCHEMA = "response_format.schema", "response_format.json_schema.schema"
TGI = "parameters.grammar.value"


OPEN = {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}
NAMED = {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}}
OBJECT = {"response_format": {"type": "json_object", "schema": SCHEMA}}


def deep(levels: int) -> dict:
    schema: dict = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def named(schema: object) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}}


def ask(client, path: str, fields: dict):
    prompts = {
        CHAT: {"messages": HELLO},
        COMPLETION: {"prompt": "Hello?"},
        "/api/chat": {"messages": HELLO, "stream": False},
        "/api/generate": {"prompt": "Hello?", "stream": False},
    }
    body = prompts[path] | fields if path in prompts else {"inputs": "Hello?", "parameters": fields}
    return client.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (CHAT, named(SCHEMA), Grammar(schema=TEXT, field=IN_SCHEMA)),
        (CHAT, OPEN, Grammar(schema=ANY, field=IN_SCHEMA)),
        (CHAT, {"response_format": {"type": "json_object"}, "stream": True}, Grammar(schema=ANY, field=OPENAI)),
        (COMPLETION, OBJECT, Grammar(schema=TEXT, field=OPENAI)),
        (CHAT, {"response_format": {"type": "text"}}, None),
        (CHAT, {"response_format": None}, None),
        ("/api/chat", {"format": "json"}, Grammar(schema=ANY, field="format")),
        ("/api/generate", {"format": SCHEMA}, Grammar(schema=TEXT, field="format")),
        ("/api/chat", {"format": ""}, None),
        ("/generate", {"grammar": {"type": "json", "value": SCHEMA}}, Grammar(schema=TEXT, field=TGI)),
        ("/generate_stream", {"grammar": {"type": "json", "value": TEXT}}, Grammar(schema=TEXT, field=TGI)),
        ("/generate", {"grammar": {"type": "json_object"}}, Grammar(schema=ANY, field=TGI)),
        ("/generate", {"grammar": {"type": "json_object", "value": SCHEMA}}, Grammar(schema=TEXT, field=TGI)),
        ("/generate", {"grammar": NAMED}, Grammar(schema=TEXT, field=TGI)),
        ("/generate", {"grammar": {"type": "regex", "value": "a|b"}}, Grammar(regex="a|b", field=TGI)),
        ("/generate", {"grammar": None}, None),
    ],
)  # fmt: skip
def test_a_grammar_reaches_the_engine_with_its_field(client, engine, path, fields, expected):
    assert ask(client, path, fields).status_code == 200
    assert engine.tickets[-1].request.grammar == expected


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"response_format": "json"}, "response_format"),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
        (CHAT, {"response_format": {"type": "text", "schema": {}}}, "response_format"),
        (CHAT, named([]), IN_SCHEMA),
        (CHAT, named(deep(70)), IN_SCHEMA),
        (CHAT, named({"enum": ["x" * 70_000]}), IN_SCHEMA),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ("/generate", {"grammar": {"type": "json"}}, "parameters.grammar"),
        ("/generate", {"grammar": {"type": "json", "value": "{"}}, "parameters.grammar"),
        ("/generate", {"grammar": {"type": "json", "value": "[" * 100_000}}, "parameters.grammar"),
        ("/generate", {"grammar": {"type": "regex", "value": {}}}, "parameters.grammar"),
        ("/generate", {"grammar": {"type": "lark", "value": "x"}}, "parameters.grammar.type"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        (CHAT, {"logit_bias": {"-1": 1}}, "logit_bias.-1.[key]"),
        (CHAT, {"logit_bias": {"5": 101}}, "logit_bias.5"),
        (CHAT, {"logit_bias": {"5": "1"}}, "logit_bias.5"),
        (CHAT, {"logit_bias": {str(number): 1 for number in range(1001)}}, "logit_bias"),
    ],
)  # fmt: skip
def test_one_that_is_none_is_refused_by_its_name(client, path, fields, param):
    answer = ask(client, path, fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize("given", ["xml", 5, [], deep(70), deep(900)], ids=lambda given: str(given)[:9])
def test_ollama_s_error_names_the_field_too(client, given):
    answer = ask(client, "/api/chat", {"format": given})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("format: ")


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/api/chat", "/generate"])
def test_what_the_engine_refuses_is_the_client_s_error(client, engine, path):
    engine.refuse_submit = ParameterRefused("some.field", "has no end")
    answer = ask(client, path, {})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error if path == "/api/chat" else error["message"]) == "some.field: has no end"
    assert path == "/api/chat" or error["param"] == "some.field"


def test_a_bias_reaches_the_engine_and_both_are_recorded_as_they_were_sent(client, engine, daemon):
    sent = named(SCHEMA) | {"logit_bias": {"5": -100, "7": 2.5}}
    for path in (CHAT, COMPLETION):
        name = ask(client, path, sent).json()["id"]
        assert engine.tickets[-1].request.logit_bias == ((5, -100.0), (7, 2.5))
        recorded = daemon.db.interactions.get(name).parameters
        assert {key: recorded[key] for key in sent} == sent
    ask(client, CHAT, {"logit_bias": None})
    assert engine.tickets[-1].request.logit_bias == ()
