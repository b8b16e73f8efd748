"""OpenAI's responses, on the engine's stand-in: shapes, the events of a stream, chains of turns, and what is stored."""

from __future__ import annotations

import json

import pytest

from lars_agent.errors import GenerationError
from service.db.errors import InteractionNotFound
from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, stream_events, wait_until

PATH = "/v1/responses"
PART = {"type": "output_text", "text": "echo: Hello?", "annotations": [], "logprobs": []}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One client for all tests here, which share its database."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), schedule={"enabled": False})
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


def create(client, said="Hello?", **fields) -> dict:
    answer = client.post(PATH, json={"input": said, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def prompt(engine) -> list[tuple[str, str]]:
    """The conversation that the engine was given last."""
    return [(turn["role"], turn["content"]) for turn in engine.tickets[-1].request.messages]


def test_a_response_has_openai_s_shape_and_is_an_interaction_under_its_id(client, daemon):
    body = create(client, metadata={"of": "me"}, max_output_tokens=7)
    assert (body["object"], body["status"], body["model"], body["store"]) == ("response", "completed", "base", True)
    assert (body["metadata"], body["max_output_tokens"], body["incomplete_details"]) == ({"of": "me"}, 7, None)
    (message,) = body["output"]
    assert {name: message[name] for name in ("type", "role", "status")} == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
    }
    assert message["content"] == [PART]
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"] == 5
    assert body["id"].startswith("resp_")
    assert daemon.db.interactions.get(body["id"]).response == "echo: Hello?"
    assert client.post("/feedback", json={"interaction_id": body["id"], "rating": "up"}).status_code == 201


def test_a_stored_response_is_returned_and_deleted_as_an_interaction(client, daemon):
    body = create(client, instructions="Be brief.", temperature=0.5, metadata={"of": "me"})
    found = client.get(f"{PATH}/{body['id']}").json()
    same = body.keys() - {"completed_at", "lars", "usage"}
    assert {name: found[name] for name in same} == {name: body[name] for name in same}
    given = client.post("/feedback", json={"interaction_id": body["id"], "rating": "up"}).json()["id"]
    gone = client.delete(f"{PATH}/{body['id']}").json()
    assert (gone["id"], gone["deleted"]) == (body["id"], True)
    assert client.get(f"/erasures/{gone['erasure_id']}").json()["feedback"] == [given]
    for again in (client.get, client.delete):
        assert again(f"{PATH}/{body['id']}").status_code == 404


def test_a_stream_is_openai_s_events_in_their_order_and_stored_before_the_last(client, daemon):
    answer = client.post(PATH, json={"input": "Hello?", "stream": True})
    found = list(stream_events(answer))
    assert [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event:")] == [
        event["type"] for event in found
    ]
    assert [event["type"].removeprefix("response.") for event in found] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    created, _, item, part, *deltas, text, whole_part, whole_item, last = found
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert (item["item"]["status"], part["part"]["text"]) == ("in_progress", "")
    assert "".join(delta["delta"] for delta in deltas) == text["text"] == "echo: Hello?"
    assert whole_part["part"] == PART
    assert last["response"]["output"] == [whole_item["item"]]
    assert {event["item_id"] for event in (part, *deltas, text, whole_part)} == {whole_item["item"]["id"]}
    assert {created["response"]["id"], last["response"]["id"]} == {created["response"]["id"]}
    assert daemon.db.interactions.get(last["response"]["id"]).response == "echo: Hello?"


def test_a_stream_that_breaks_off_ends_with_a_response_that_failed(client, engine, monkeypatch):
    monkeypatch.setattr(engine, "break_reply", GenerationError("the kernel is gone"))
    *_, last = stream_events(client.post(PATH, json={"input": "Hello?", "stream": True}))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["message"] == "the kernel is gone"


def test_input_may_be_messages_of_every_role_with_parts(client, engine):
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Who are you?"}], "id": None},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "phase": "final_answer",
         "content": [{"type": "output_text", "text": "A dog", "annotations": [], "logprobs": []},
                     {"type": "output_text", "text": "."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Hel"}, {"type": "text", "text": "lo?"}],
         "refusal": None, "annotations": []},
    ]  # fmt: skip
    create(client, items, instructions="Be brief.")
    assert prompt(engine) == [
        ("system", "Be brief."),
        ("system", "Be kind."),
        ("user", "Who are you?"),
        ("assistant", "A dog."),
        ("user", "Hello?"),
    ]


def test_a_chain_has_every_turn_but_the_instructions_of_earlier_ones(client, engine, daemon):
    first = create(client, [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "One"}],
                   instructions="Be brief.")  # fmt: skip
    second = create(client, "Two", previous_response_id=first["id"], instructions="Be long.")
    third = create(client, "Three", previous_response_id=second["id"], stream=False)
    assert prompt(engine) == [
        ("system", "Rhyme."),
        ("user", "One"),
        ("assistant", "echo: One"),
        ("user", "Two"),
        ("assistant", "echo: Two"),
        ("user", "Three"),
    ]
    assert (second["instructions"], third["instructions"]) == ("Be long.", None)
    assert client.get(f"{PATH}/{second['id']}").json()["instructions"] == "Be long."
    assert third["previous_response_id"] == second["id"]


def test_a_chain_goes_on_from_any_interaction_and_stays_in_its_conversation(client, engine):
    asked = {
        "model": "default",
        "messages": [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "One"}],
    }
    chat = client.post("/v1/chat/completions", json=asked, headers={"LARS-Conversation": "c-7"}).json()
    create(client, "Two", previous_response_id=create(client, "And", previous_response_id=chat["id"])["id"])
    assert [text for _, text in prompt(engine)] == ["Rhyme.", "One", "echo: One", "And", "echo: And", "Two"]
    assert client.get("/interactions?conversation=c-7").json()["total"] == 3
    found = client.get(f"{PATH}/{chat['id']}").json()
    assert (found["id"], found["output"][0]["content"][0]["text"]) == (chat["id"], "echo: One")


@pytest.mark.parametrize("of", ["responses", "chat"])
def test_an_item_reference_is_the_stored_reply(client, engine, of):
    if of == "chat":
        asked = {"messages": [{"role": "user", "content": "One"}]}
        name = client.get(f"{PATH}/{client.post('/v1/chat/completions', json=asked).json()['id']}").json()
    else:
        name = create(client, "One")
    item = name["output"][0]["id"]
    for reference in ({"type": "item_reference", "id": item}, {"id": item}):
        create(client, [{"role": "user", "content": "One"}, reference, {"role": "user", "content": "Two"}])
        assert prompt(engine) == [("user", "One"), ("assistant", "echo: One"), ("user", "Two")]


@pytest.mark.parametrize("fields", [{"store": False}, {"store": False, "stream": True}])
def test_what_is_not_to_be_stored_is_neither_kept_nor_learned_and_ends_no_chain(client, daemon, fields):
    first = create(client, "My boat is called Odile.", instructions="Be brief.")
    before = daemon.db.interactions.count(), daemon.db.feedback.counts()
    asked = {"input": "By the way, my sister is called Ida.", "previous_response_id": first["id"], **fields}
    answer = client.post(PATH, json=asked)
    body = answer.json() if "stream" not in fields else [*stream_events(answer)][-1]["response"]
    assert body["store"] is False
    assert (daemon.db.interactions.count(), daemon.db.feedback.counts()) == before
    with pytest.raises(InteractionNotFound):
        daemon.db.interactions.get(body["id"])
    assert client.get(f"{PATH}/{body['id']}").status_code == 404
    refused = client.post(PATH, json={"input": "Hi", "previous_response_id": body["id"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "previous_response_id")


def test_a_reply_that_is_cut_off_is_incomplete(client, daemon):
    body = create(client)
    record = daemon.db.interactions.get(body["id"])
    daemon.db.interactions.add(type(record)(**{**vars(record), "id": "resp_cut", "finish_reason": "length"}))
    found = client.get(f"{PATH}/resp_cut").json()
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert found["output"][0]["status"] == "incomplete"


def test_parameters_reach_the_engine_and_fields_that_are_off_do_not_matter(client, engine):
    off = {"tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}, "verbosity": "low"}, "user": "x",
           "background": False, "truncation": "disabled", "reasoning": {"effort": "low"}, "conversation": None,
           "instructions": "", "prompt": None, "include": ["reasoning.encrypted_content"], "service_tier": "auto",
           "parallel_tool_calls": True, "previous_response_id": None, "stream_options": None}  # fmt: skip
    own = {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 9, "seed": 5, "stop": "x", "recall": False}
    create(client, **off, **own)
    request = engine.tickets[-1].request
    assert (request.temperature, request.top_p, request.max_new_tokens) == (0.5, 0.9, 9)
    assert (request.seed, request.stop, request.logprobs) == (5, ("x",), None)
    create(client, include=["message.output_text.logprobs"], top_logprobs=3)
    assert engine.tickets[-1].request.logprobs == 3


IMAGE = {"type": "input_image", "image_url": "data:x"}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "input"),
        ({"input": " "}, 422, "input.0.content"),
        ({"input": []}, 422, "input"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, 422, "input.0.content"),
        ({"input": [{"role": "tool", "content": "x"}]}, 422, "input.0.role"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, 422, "input.0"),
        ({"input": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, 422, "input"),
        ({"input": [{"type": "item_reference"}, {"role": "user", "content": "x"}]}, 422, "input.0"),
        ({"input": [{"type": "item_reference", "id": "msg_9"}, {"role": "user", "content": "x"}]}, 404, "input.0.id"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, 422, "tools"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "schema": {}}}}, 422, "text.format"),
        ({"input": "x", "conversation": "conv_1"}, 422, "conversation"),
        ({"input": "x", "background": True}, 422, "background"),
        ({"input": "x", "truncation": "auto"}, 422, "truncation"),
        ({"input": "x", "previous_response_id": "resp_9"}, 404, "previous_response_id"),
        ({"input": "x", "previous_response_id": "a\u0000b"}, 422, "previous_response_id"),
        ({"input": "x", "metadata": {"\ud800": "x"}}, 422, "metadata"),
        ({"input": "x", "no_such": 1}, 422, "no_such"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_field_that_would_change_the_reply_and_is_not_supported_is_refused_by_name(client, body, status, param):
    answer = client.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "code", "param"})
    assert answer.json()["error"]["param"].startswith(param)
