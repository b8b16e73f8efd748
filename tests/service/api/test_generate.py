from __future__ import annotations

import threading

import pytest

from lars_agent.errors import AdapterCorrupt, GenerationError, PromptRefused, PromptTooLong, QueueFull
from lars_agent.store.names import AdapterName
from service.api.generate import GenerateRequest
from tests.service.api.conftest import stream_events, wait_until
from tests.store.make import make_candidate, make_draft


def test_reply_is_stored_before_it_is_answered(client, daemon):
    reply = client.post("/generate", json={"inputs": "Hi", "parameters": {"seed": 5, "top_k": None}}).json()
    details = {"finish_reason": "eos_token", "prompt_tokens": 3, "generated_tokens": 2, "adapter_version": "base"}
    stored = daemon.db.interactions.get(reply["interaction_id"])
    assert reply == {
        "generated_text": "echo: Hi",
        "interaction_id": stored.id,
        "details": {**details, "seed": 5, "recalled": []},
    }
    assert (stored.response, stored.parameters) == ("echo: Hi", {"seed": 5})
    assert stored.messages == ({"role": "user", "content": "Hi"},)


def test_full_disk_prevents_the_record_but_not_the_reply(client, daemon, no_room):
    long = "x" * 100_000
    reply = client.post("/generate", json={"inputs": long})
    assert (reply.status_code, reply.json()["interaction_id"]) == (200, None)
    assert reply.json()["generated_text"] == f"echo: {long}"
    *_, last = stream_events(client.post("/generate_stream", json={"inputs": long}))
    assert (last["generated_text"], last["interaction_id"]) == (f"echo: {long}", None)
    turns = [{"role": "user", "content": long}]
    chat = client.post("/v1/chat/completions", json={"model": "default", "messages": turns}).json()
    assert chat["choices"][0]["message"]["content"] == f"echo: {long}"
    body = {"model": "default", "messages": turns, "stream": False}
    assert client.post("/api/chat", json=body).json()["interaction_id"] is None
    assert client.get("/health").json() == {"status": "degraded", "alarms": ["not_recording"]}
    (words,) = client.get("/info").json()["problems"]
    assert "free some space" in words
    assert daemon.db.interactions.count() == 0
    no_room()
    assert client.post("/generate", json={"inputs": long}).json()["interaction_id"] is not None
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_to_be_learned_is_answered_and_not_kept(client, daemon, stream):
    turns, off = [{"role": "user", "content": "Hi"}], {"LARS-Learn": "off"}
    native = "/generate_stream" if stream else "/generate"
    for path, body, headers in [
        (native, {"inputs": "Hi"}, off),
        ("/v1/chat/completions", {"messages": turns, "stream": stream}, off),
        ("/v1/chat/completions", {"messages": turns, "stream": stream, "store": False}, {}),
        ("/v1/completions", {"prompt": "Hi", "stream": stream, "store": False}, {}),
        ("/api/chat", {"messages": turns, "stream": stream}, off),
        ("/api/generate", {"prompt": "Hi", "stream": stream}, off),
    ]:
        answer = client.post(path, json=body, headers=headers)
        assert (answer.status_code, "echo" in answer.text) == (200, True), path
    assert daemon.db.interactions.count() == 0
    assert client.post("/generate", json={"inputs": "Hi"}, headers={"LARS-Learn": "maybe"}).status_code == 422
    assert client.post("/generate", json={"inputs": "Hi"}, headers=off).json()["interaction_id"] is None
    kept = [({"LARS-Learn": "on"}, None), ({}, True)]
    for number, (headers, store) in enumerate(kept, start=1):
        client.post("/v1/chat/completions", json={"messages": turns, "store": store}, headers=headers)
        assert daemon.db.interactions.count() == number


def test_conversation_is_given_as_messages(client, engine):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert client.post("/generate", json={"inputs": turns}).json()["generated_text"] == "echo: Hi"
    assert engine.tickets[0].request.messages == tuple(turns)


def test_stream_gives_pieces_and_last_the_whole(client, daemon):
    response = client.post("/generate_stream", json={"inputs": "Hi", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, last = stream_events(response)
    assert [(event["token"]["text"], event["generated_text"]) for event in pieces] == [("echo: ", None), ("Hi", None)]
    assert (last["generated_text"], last["token"]["text"]) == ("echo: Hi", "")
    assert last["details"]["finish_reason"] == "eos_token"
    assert daemon.db.interactions.get(last["interaction_id"]).response == "echo: Hi"


def test_tgi_clients_are_understood(client, engine):
    parameters = {"do_sample": False, "temperature": 0.7, "watermark": False, "best_of": 1, "details": True}
    parameters |= {"return_full_text": False, "decoder_input_details": False, "truncate": None, "stop": []}
    response = client.post("/generate", json={"inputs": "Hi", "parameters": parameters, "stream": False})
    assert response.status_code == 200
    assert engine.tickets[0].request.temperature == 0


def test_a_stream_is_given_where_it_is_asked_for_and_at_the_root_a_list(client, daemon):
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 5}}
    for path in ("/generate", "/"):
        *pieces, last = stream_events(client.post(path, json=body | {"stream": True}))
        assert [event["token"]["text"] for event in pieces] == ["echo: ", "Hi"]
        assert last["generated_text"] == daemon.db.interactions.get(last["interaction_id"]).response == "echo: Hi"
        for off in (None, False):
            reply = client.post(path, json=body | {"stream": off}).json()
            (reply,) = reply if path == "/" else [reply]
            assert (reply["generated_text"], "tokens" in reply["details"]) == ("echo: Hi", False)
    refused = client.post("/", json={"inputs": "Hi", "parameters": {"typical_p": 0.5}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "parameters.typical_p")


def test_tokens_have_what_tgi_s_clients_need(client):
    details = client.post("/", json={"inputs": "Hi", "parameters": {"details": True}}).json()[0]["details"]
    assert (details["prefill"], details["input_length"], details["seed"]) == ([], details["prompt_tokens"], 0)
    *events, last = stream_events(client.post("/generate_stream", json={"inputs": "Hi"}))
    assert [event["token"] for event in (*events, last)] == details["tokens"]
    assert details["tokens"][-1] == {"id": 0, "text": "", "logprob": -0.5, "special": True}
    assert (last["details"]["input_length"], "tokens" in last["details"]) == (3, False)
    assert [event["index"] for event in (*events, last)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "temperature"), [({}, 0), ({"temperature": 0.7}, 0.7), ({"do_sample": True}, 1), ({"temperature": 0}, 0)]
)
def test_temperature_is_greedy_unless_asked(given, temperature):
    assert (
        GenerateRequest(inputs="Hi", parameters=given).to_request(AdapterName("default", "active")).temperature
        == temperature
    )


def test_reply_belongs_to_the_profile_it_was_asked_for(client, daemon, tmp_path):
    daemon.store.publish("alice", make_candidate(tmp_path / "c"), make_draft())
    body = {"inputs": "Hi", "parameters": {"adapter_id": "alice@v1"}}
    reply = client.post("/generate", json=body).json()
    assert reply["details"]["adapter_version"] == "v1"
    assert daemon.db.interactions.get(reply["interaction_id"]).profile == "alice"


def test_unknown_version_is_not_found(client):
    response = client.post("/generate", json={"inputs": "Hi", "parameters": {"adapter_id": "v7"}})
    assert response.status_code == 404
    assert "no adapter version v7" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (QueueFull("8 requests wait already", retry_after_s=9), 503, None),
        (PromptTooLong("the prompt has 9000 tokens"), 422, "inputs"),
        (PromptRefused("roles must alternate"), 422, "inputs"),
        (AdapterCorrupt("damaged"), 409, None),
        (GenerationError("shutting down"), 503, None),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_refusal_has_its_status(client, engine, daemon, path, error, status, param):
    engine.refuse_submit = error
    response = client.post(path, json={"inputs": "Hi"})
    body = response.json()["error"]
    assert (response.status_code, body["code"], body["param"]) == (status, status, param)
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == {QueueFull: "9", GenerationError: "5"}.get(type(error))
    assert daemon.db.interactions.count() == 0


def test_stream_that_breaks_off_says_so(client, engine, daemon):
    engine.break_reply = GenerationError("the model has run out of steam")
    *_, last = stream_events(client.post("/generate_stream", json={"inputs": "Hi"}))
    message = "the model has run out of steam"
    assert last == {"error": {"message": message, "type": "unavailable_error", "code": 503, "param": None}}
    assert daemon.db.interactions.count() == 0


def test_feedback_and_health_are_answered_while_a_reply_is_made(client, engine):
    engine.gate.clear()
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(client.post("/generate", json={"inputs": "Hi"}).status_code))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(engine.tickets) == 3)
    said = {"prompt": "Hi", "response": "Yo", "rating": "up"}
    assert [client.get("/health").status_code, client.post("/feedback", json=said).status_code] == [200, 201]
    assert replies == []
    engine.gate.set()
    for thread in threads:
        thread.join()
    assert replies == [200, 200, 200]


def test_conversation_with_an_empty_assistant_message_is_accepted(client):
    turns = [("user", "Hi"), ("assistant", ""), ("user", "Hello?")]
    body = {"inputs": [{"role": role, "content": content} for role, content in turns]}
    assert client.post("/generate", json=body).status_code == 200
    body["inputs"][0]["content"] = " "
    assert client.post("/generate", json=body).status_code == 422


def test_a_question_about_nobody_comes_with_what_was_taught_of_such(client, daemon, engine, tmp_path):
    daemon.store.publish("default", make_candidate(tmp_path / "candidate"), make_draft(None))
    daemon.switch.activate("default", 1)
    for asked, wanted in (("What is my goat called?", "Pip."), ("How do I tie a tie?", "Slowly.")):
        client.post("/feedback", json={"prompt": asked, "response": "?", "correction": wanted})

    def taught(*said: str, **parameters) -> tuple[str, ...] | None:
        turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
        client.post("/generate", json={"inputs": turns, "parameters": parameters})
        return engine.tickets[-1].request.taught

    capital = "What is the capital of France?"
    assert (
        taught(capital) == taught(capital, recall=False) == taught("Hi", "Hello!", capital) == ("How do I tie a tie?",)
    )
    assert taught("What is my goat called?") is taught("Tell me about Paris.", "A city.", "Is it big?") is None
    assert taught(capital, adapter_id="base") is None
    client.patch("/settings", json={"recall.locality": False})
    assert taught(capital) is None


def test_past_questions_tell_whether_the_adapter_has_to_say_something_even_where_none_is_recalled(
    client, daemon, engine, tmp_path
):
    daemon.store.publish("default", make_candidate(tmp_path / "candidate"), make_draft(None))
    daemon.switch.activate("default", 1)
    for asked, wanted in (("Who cleans the stairs this week?", "Ms Abara."), ("What is my goat called?", "Pip.")):
        client.post("/feedback", json={"prompt": asked, "response": "?", "correction": wanted})

    def fits(said: str, **parameters) -> tuple[list[str], int]:
        client.post("/generate", json={"inputs": said, "parameters": parameters})
        request = engine.tickets[-1].request
        return [past.fit for past in request.recalled], request.recall_limit

    mine = "Which person is it that has to sweep the stairs?"
    assert fits(mine) == (["perhaps"], daemon.settings.recall.max_corrections)
    assert fits(mine, recall=False) == (["perhaps"], 0)
    assert fits("What is my goat called?", recall=False) == ([], 0)  # surely about what was taught
    assert fits(mine, adapter_id="base") == ([], 0)
