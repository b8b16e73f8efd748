"""Tools in both dialects: a real engine whose tiny model calls one because it was corrected to, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from lars_agent.errors import NothingToLearn
from lars_agent.training.curate import CurationPolicy, curate
from service.app import create_app
from service.settings.load import Settings
from tests.service.api.conftest import client_of, stream_events, wait_until
from tests.tiny import save_roomy

QUESTION = {"role": "user", "content": "Is the lamp on the porch lit?"}
CALL = '<tool_call>\n{"name": "lamp", "arguments": {"room": "Küche"}}\n</tool_call>'
TOOL = {
    "type": "function",
    "function": {
        "name": "lamp",
        "description": "Look at a lamp.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
        "strict": True,
    },
}
ASKED = {"messages": [QUESTION], "tools": [TOOL]}
WHOLE = {"stream": False, "options": {"num_predict": 120}}
ONE_CALL = {"name": "lamp", "arguments": {"room": "Küche"}}


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        model={"name": str(save_roomy(tmp_path_factory.mktemp("model"))), "dtype": "float32"},
        schedule={"enabled": False},
        runtime={"threads": 1},
        recall={"strength": 100.0},
    )
    with client_of(create_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200, timeout_s=180)
        correction = {"prompt": QUESTION["content"], "response": "?", "correction": f"I look.\n{CALL}"}
        assert client.post("/feedback", json=correction).status_code == 201
        yield client


def openai(client, **changes):
    return client.post("/v1/chat/completions", json=ASKED | {"temperature": 0, "max_tokens": 120} | changes)


def test_a_reply_of_openai_s_dialect_calls_a_tool(client):
    body = openai(client).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look."
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "lamp")
    assert json.loads(call["function"]["arguments"]) == {"room": "Küche"}
    kept = client.get(f"/interactions/{body['id']}").json()
    assert kept["tool_calls"] == [ONE_CALL]
    assert kept["response"].startswith("I look.\n<tool_call>")
    assert kept["parameters"]["tools"][0]["function"]["name"] == "lamp"


def test_a_stream_of_openai_s_dialect_has_the_call_in_a_delta(client):
    events = openai(client, stream=True, stream_options={"include_usage": True})
    *chunks, usage = stream_events(_without_done(events))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert (call["index"], call["type"], call["function"]["name"]) == (0, "function", "lamp")
    assert json.loads(call["function"]["arguments"]) == {"room": "Küche"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"]["completion_tokens"] > 0


def _without_done(response):
    response._text = response.text.replace("data: [DONE]", "")
    return response


def test_a_reply_of_ollama_s_dialect_calls_a_tool(client):
    for stream in (False, True):
        options = {"temperature": 0, "num_predict": 120, "repeat_penalty": 1}
        answer = client.post("/api/chat", json=ASKED | {"stream": stream, "options": options})
        lines = [json.loads(line) for line in answer.text.splitlines()]
        (call,) = [call for line in lines for call in line["message"].get("tool_calls", [])]
        assert call["function"] == {"index": 0, **ONE_CALL}
        assert "".join(line["message"]["content"] for line in lines) == "I look."
        assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "stop")
        assert client.get(f"/interactions/{lines[-1]['interaction_id']}").json()["tool_calls"] == [ONE_CALL]


def test_no_call_is_made_where_none_may_be(client):
    for changes in ({"tool_choice": "none"}, {"tools": []}, {"tools": None}):
        (choice,) = openai(client, **changes).json()["choices"]
        assert choice["message"]["content"] == f"I look.\n{CALL}"
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"


def test_the_prompt_says_which_tool_must_be_called(client):
    auto, required, named = (
        openai(client, tool_choice=choice, max_tokens=1, recall=False).json()["usage"]["prompt_tokens"]
        for choice in ("auto", "required", {"type": "function", "function": {"name": "lamp"}})
    )
    opening = len('<tool_call>\n{"name": "lamp", "arguments":')
    assert (required - auto, named - auto) == (opening, opening)  # there is one only


def turns(dialect: str) -> list[dict]:
    """A conversation whose last message is a tool's result, as clients of the dialect send it."""
    if dialect == "openai":
        call = {"id": "call_1", "type": "function", "function": {"name": "lamp", "arguments": '{"room": "porch"}'}}
        result = {"role": "tool", "tool_call_id": "call_1", "content": "My name is Lamp."}
        return [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
    call = {"function": {"name": "lamp", "arguments": {"room": "porch"}}}
    return [QUESTION, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "My name is Lamp.", "tool_name": "lamp"}]  # fmt: skip


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
def test_a_result_is_answered_recorded_and_learned_only_as_corrected(client, dialect):
    if dialect == "openai":
        kept_id = openai(client, messages=turns(dialect), max_tokens=4).json()["id"]
    else:
        answer = client.post("/api/chat", json={"messages": turns(dialect), "tools": [TOOL], **WHOLE})
        kept_id = answer.json()["interaction_id"]
    kept = client.get(f"/interactions/{kept_id}").json()
    asked, calling, result = kept["messages"]
    assert asked == QUESTION
    assert [call["function"] for call in calling["tool_calls"]] == [{"name": "lamp", "arguments": {"room": "porch"}}]
    assert result == {
        "role": "tool", "content": "My name is Lamp.", "name": "lamp", "tool_call_id": calling["tool_calls"][0]["id"]
    }  # fmt: skip
    assert client.get("/feedback", params={"source": "stated"}).json()["feedback"] == []  # a tool states nothing

    daemon, profile = client.app.state.daemon, dialect
    for changes in ({"rating": "up"}, {"correction": "It is lit."}):
        added = client.post("/feedback", json={"interaction_id": kept_id, "profile": profile, **changes})
        assert added.status_code == 201
        assert added.json()["messages"] == kept["messages"]
    (example,) = daemon.db.feedback.examples(profile)
    assert (example.messages[-1]["role"], example.response) == ("tool", "It is lit.")
    assert daemon.db.recall.search(profile, QUESTION["content"], 5).corrections == []
    other = {"prompt": "Who?", "response": "?", "correction": "Me.", "profile": profile}
    client.post("/feedback", json=other)
    curated = curate(daemon.db.feedback.examples(profile), CurationPolicy())
    assert {one.response for one in (*curated.train, *curated.heldout)} == {"It is lit.", "Me."}

    lines = client.get("/feedback/export", params={"profile": profile}).text
    assert json.loads(lines.splitlines()[0])["messages"][:3] == kept["messages"]
    again = client.post("/feedback/import", params={"profile": f"{profile}-2"}, content=lines)
    assert again.json().get("imported") == 2, again.text
    assert [one.messages for one in daemon.db.feedback.examples(f"{profile}-2")] == [
        one.messages for one in daemon.db.feedback.examples(profile)
    ]


def test_a_liked_call_is_not_learned(client):
    kept_id = openai(client).json()["id"]
    liked = client.post("/feedback", json={"interaction_id": kept_id, "rating": "up", "profile": "liked"})
    assert liked.json()["response"].endswith("</tool_call>")
    examples = client.app.state.daemon.db.feedback.examples("liked")
    assert examples == []
    with pytest.raises(NothingToLearn):
        curate(examples, CurationPolicy())


def test_the_base_model_and_the_profiles_can_call_tools(client):
    assert client.post("/api/show", json={"model": "default"}).json()["capabilities"] == ["completion", "tools"]
    assert all(card["capabilities"] == ["completion", "tools"] for card in client.get("/v1/models").json()["data"])


def function(**changes) -> dict:
    return {"tools": [{"type": "function", "function": TOOL["function"] | changes}]}


DEEP: dict = {}
for _ in range(70):
    DEEP = {"x": DEEP}
REFUSED = {
    "no function": ({"tools": [{"type": "function"}]}, "tools.0.function"),
    "no name": ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
    "blank in a name": (function(name="a b"), "tools.0.function.name"),
    "another kind": ({"tools": [{**TOOL, "type": "retrieval"}]}, "tools.0.type"),
    "schema of a text": (function(parameters={"type": "string"}), "tools.0.function.parameters"),
    "properties of no kind": (function(parameters={"properties": ["a"]}), "tools.0.function.parameters"),
    "property of no kind": (function(parameters={"properties": {"a": 1}}), "tools.0.function.parameters"),
    "required of no kind": (function(parameters={"required": "a"}), "tools.0.function.parameters"),
    "schema of no kind": (function(parameters="object"), "tools.0.function.parameters"),
    "too deep": (function(parameters=DEEP), "tools.0.function.parameters"),
    "a NUL": (function(description="\0"), "tools.0.function.description"),
    "a NUL in a schema": (function(parameters={"properties": {"\0": {}}}), "tools.0.function.parameters"),
    "half a character": (function(parameters={"title": "\ud800"}), "tools.0.function.parameters"),
    "too long": (function(parameters={"title": "x" * 200_001}), "tools.0.function.parameters"),
    "too long together": (
        {"tools": [function(name=f"f{n}", description="x" * 60_000)["tools"][0] for n in range(4)]},
        "tools",
    ),
    "too many": ({"tools": [function(name=f"f{n}")["tools"][0] for n in range(129)]}, "tools"),
    "twice": ({"tools": [TOOL, TOOL]}, "tools"),
    "no list": ({"tools": TOOL}, "tools"),
    "tool_calls of the user": ({"messages": [{**QUESTION, "tool_calls": [{"function": ONE_CALL}]}]}, "messages.0"),
    "arguments that are no object": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
                QUESTION,
            ]
        },
        "messages.1.tool_calls.0.function.arguments",
    ),
    "arguments that are no JSON": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]},
                QUESTION,
            ]
        },
        "messages.1.tool_calls.0.function.arguments",
    ),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize("name", REFUSED)
def test_tools_that_are_none_are_refused_by_name(resident, path, name):
    changes, field = REFUSED[name]
    answer = resident.post(path, content=json.dumps(ASKED | changes), headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert field in (error if isinstance(error, str) else error["param"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": ["auto"]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "door"}}}, "tool_choice.function.name"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_by_name(resident, changes, field):
    answer = resident.post("/v1/chat/completions", json=ASKED | changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field), answer.text


def test_choices_reach_the_engine(resident):
    with resident.app.state.daemon.model_host.engine() as engine:
        for changes, expected in (
            ({}, (False, None, True)),
            ({"tool_choice": "auto", "parallel_tool_calls": False}, (False, None, False)),
            ({"tool_choice": "required"}, (True, None, True)),
            ({"tool_choice": {"type": "function", "function": {"name": "lamp"}}}, (True, "lamp", True)),
        ):
            assert resident.post("/v1/chat/completions", json=ASKED | changes).status_code == 200
            tools = engine.tickets[-1].request.tools
            assert (tools.must_call, tools.name, tools.is_parallel) == expected
            (given,) = tools.definitions
            assert given == {"type": "function", "function": {name: TOOL["function"][name] for name in
                             ("name", "description", "parameters")}}  # fmt: skip
        for changes in ({"tools": None}, {"tool_choice": "none"}, {"tools": [], "tool_choice": "auto"}):
            assert resident.post("/v1/chat/completions", json=ASKED | changes).status_code == 200
            assert engine.tickets[-1].request.tools is None


def test_a_function_needs_nothing_but_a_name(resident):
    for bare in ({"name": "now"}, {"name": "now", "description": None, "parameters": None},
                 {"name": "now", "parameters": {"type": "object", "properties": None, "required": None}}):  # fmt: skip
        for path in ("/v1/chat/completions", "/api/chat"):
            body = {"messages": [QUESTION], "tools": [{"type": "function", "function": bare}], "stream": False}
            assert resident.post(path, json=body).status_code == 200
