"""Several replies to one request, begun replies, lists of prompts: on the engine's stand-in, in OpenAI's shape."""

from __future__ import annotations

import json

import pytest

from lars_agent.errors import GenerationError, PromptTooLong, QueueFull
from lars_agent.runtime.request import Generation, TokenChoice, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.choices import Choice
from service.api.openai.completions import CompletionRequest, completion_logprobs
from tests.service.api.test_openai import HELLO, events

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def client(resident):
    return resident


@pytest.fixture(autouse=True)
def forget_tickets(engine):
    engine.tickets.clear()


def replies(daemon, count: int) -> list[str]:
    return [one.response for one in reversed(daemon.db.interactions.list(count))]


def test_each_of_several_choices_is_an_interaction_of_its_own_with_its_own_seed(client, daemon, engine):
    body = client.post(CHAT, json=HELLO | {"n": 3, "seed": 2**63 - 1}).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"echo: Hello?"}
    assert sorted(ticket.request.seed for ticket in engine.tickets) == [0, 1, 2**63 - 1]
    assert engine.tickets[0].request.seed == 2**63 - 1  # the first is the reply that one alone would be
    names = [choice["lars"]["interaction_id"] for choice in body["choices"]]
    assert (len(set(names)), names[0]) == (3, body["id"])
    assert {daemon.db.interactions.get(name).seed for name in names} == {0, 1, 2**63 - 1}
    rated = client.post("/feedback", json={"interaction_id": names[2], "rating": "up"})
    assert rated.status_code == 201
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_stream_of_several_choices_tells_them_by_their_index(client, daemon):
    asked = HELLO | {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(client.post(CHAT, json=asked))
    *told, usage = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 4
    for index in range(2):
        own = [chunk["choices"][0] for chunk in told if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in own) == "echo: Hello?"
        assert [choice["finish_reason"] for choice in own][-2:] == [None, "stop"]
        (name,) = {choice["lars"]["interaction_id"] for choice in own}
        assert daemon.db.interactions.get(name).response == "echo: Hello?"
        assert (name == usage["id"]) == (index == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_later_choices_wait_while_the_queue_is_full_and_the_first_is_refused(client, engine, monkeypatch, stream):
    submit, refusals = engine.submit, [None, QueueFull("full"), None, QueueFull("full"), None]

    def refuse_some(request):
        if (refusal := refusals.pop(0)) is not None:
            raise refusal
        return submit(request)

    monkeypatch.setattr(engine, "submit", refuse_some)
    assert client.post(CHAT, json=HELLO | {"n": 3, "stream": stream}).status_code == 200
    assert refusals == []
    refusals[:] = [QueueFull("full")]
    assert client.post(CHAT, json=HELLO | {"n": 3, "stream": stream}).status_code == 503


def test_nothing_is_kept_of_choices_of_which_one_failed(client, daemon, engine, monkeypatch):
    submit, before = engine.submit, daemon.db.interactions.count()

    def break_second(request):
        engine.break_reply = GenerationError("the kernel is gone") if engine.tickets else None
        return submit(request)

    monkeypatch.setattr(engine, "submit", break_second)
    try:
        answer = client.post(CHAT, json=HELLO | {"n": 2})
    finally:
        engine.break_reply = None
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the kernel is gone")
    assert daemon.db.interactions.count() == before


def test_a_list_of_prompts_is_answered_in_its_order(client, daemon, engine):
    body = client.post(TEXT, json={"prompt": ["One", [5, 7], "Three"], "n": 2, "echo": True, "seed": 4}).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"] for choice in body["choices"]] == [
        *("echo: One", "echo: One", "echo: ", "echo: ", "echo: Three", "echo: Three")
    ]
    requests = sorted((ticket.request for ticket in engine.tickets), key=lambda one: (str(one.raw), one.seed))
    assert [(one.raw, one.seed, one.echo) for one in requests] == [
        *(((5, 7), 4, True), ((5, 7), 5, True), ("One", 4, True), ("One", 5, True)),
        *(("Three", 4, True), ("Three", 5, True)),
    ]
    assert body["usage"]["prompt_tokens"] == 9
    assert replies(daemon, 6) == [choice["text"] for choice in body["choices"]]
    single = client.post(TEXT, json={"prompt": [5, 7]}).json()
    assert (len(single["choices"]), engine.tickets[-1].request.raw) == (1, (5, 7))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        *(({"prompt": prompt}, "prompt") for prompt in ([], [[]], [1.5], [-1], [True], [2**31], {}, [["x"]], "\0")),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"max_tokens": -2}, "max_tokens"),
    ],
    ids=str,
)
def test_a_wrong_completion_is_refused_by_name(client, engine, changes, param):
    answer = client.post(TEXT, json={"prompt": "Hi"} | changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert engine.tickets == []


def test_the_best_of_several_are_the_likeliest_by_token():
    body = CompletionRequest(prompt=["a", "b"], n=1, best_of=2)

    def choice(number: int, *logprobs: float) -> Choice:
        tokens = tuple(TokenLogprob(TokenChoice(1, "x", one), ()) for one in logprobs)
        return Choice(number, None, Generation("", "length", 1, 1, None, 0, (), logprobs=tokens))  # type: ignore[arg-type]

    candidates = [choice(0, -1.0, -3.0), choice(1, -1.5, -1.5, -1.5), choice(2, -0.1), choice(3, -0.2)]
    assert [one.number for one in body.best(candidates)] == [1, 2]
    assert body.to_request(AdapterName("default", None), 3).logprobs == 0


def test_an_echoed_prompt_s_first_token_has_no_probability_and_offsets_follow_the_text():
    def token(text: str, logprob: float | None) -> TokenLogprob:
        top = (TokenChoice(8, "x", -0.1), TokenChoice(9, "x", -2.0)) if logprob is not None else ()
        return TokenLogprob(TokenChoice(7, text, logprob), top)

    tokens = [token("<s>", None), token("On", -1.0), token("ce", -2.0), token("\ufffd", -3.0), token("up", -4.0)]
    shape = completion_logprobs(tokens, "Once\u00e9up", 10)
    assert shape["token_logprobs"] == [None, -1.0, -2.0, -3.0, -4.0]
    assert shape["top_logprobs"][:2] == [None, {"x": -0.1, "On": -1.0}]
    assert shape["text_offset"] == [10, 10, 12, 14, 14]


def test_a_request_without_a_reply_is_not_kept(client, daemon, engine):
    before = daemon.db.interactions.count()
    assert client.post(TEXT, json={"prompt": "Hi", "echo": True, "max_tokens": 0, "logprobs": 1}).status_code == 200
    request = engine.tickets[-1].request
    assert (request.echo, request.max_new_tokens, request.logprobs) == (True, 0, 1)
    assert daemon.db.interactions.count() == before


DIALECTS = {
    CHAT: lambda turns: {"messages": turns},
    "/generate": lambda turns: {"inputs": turns},
    "/generate_stream": lambda turns: {"inputs": turns},
    "/api/chat": lambda turns: {"messages": turns, "stream": False},
}
USER = {"role": "user", "content": "What is my name?"}
BEGUN = {"role": "assistant", "content": "Your name is"}


@pytest.mark.parametrize("path", DIALECTS)
def test_a_begun_reply_is_gone_on_with_and_kept_whole(client, daemon, engine, path):
    assert client.post(path, json=DIALECTS[path]([USER, BEGUN])).status_code == 200
    request = engine.tickets[-1].request
    assert ([dict(one) for one in request.messages], request.prefill) == ([USER], "Your name is")
    (kept,) = daemon.db.interactions.list(1)
    assert ([dict(one) for one in kept.messages], kept.response) == ([USER], "Your name isecho: What is my name?")
    empty = {"role": "assistant", "content": ""}
    assert client.post(path, json=DIALECTS[path]([USER, empty])).status_code == 200
    assert ([dict(one) for one in engine.tickets[-1].request.messages], engine.tickets[-1].request.prefill) == (
        [USER],
        "",
    )
    assert client.post(path, json=DIALECTS[path]([BEGUN])).status_code == 422


@pytest.mark.parametrize("path", DIALECTS)
def test_a_system_message_alone_is_replied_to_and_states_nothing(client, daemon, engine, path):
    told = {"role": "system", "content": "By the way, my ferret is called Moss."}
    assert client.post(path, json=DIALECTS[path]([told])).status_code == 200
    assert [dict(one) for one in engine.tickets[-1].request.messages] == [told]
    assert client.get("/feedback?source=stated&q=ferret").json()["total"] == 0


EMPTY = {
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning_content": "",
    "images": [],
    "thinking": "",
    "name": None,
    "metadata": {},
}
SPOKEN = [USER, {"role": "assistant", "content": "Mara.", **EMPTY}, USER | EMPTY]


@pytest.mark.parametrize("path", [*DIALECTS, "/feedback"])
def test_fields_of_messages_that_are_empty_or_unknown_are_ignored(client, engine, path):
    shapes = DIALECTS | {"/feedback": lambda turns: {"messages": turns, "response": "Yo", "rating": 1}}
    known = [SPOKEN[0], SPOKEN[1] | {"annotations": [{"url": "x"}], "reasoning_content": "hm"}, SPOKEN[2]]
    for turns in (SPOKEN, known):
        answer = client.post(path, json=shapes[path](turns))
        assert answer.status_code in (200, 201), answer.text
    if path != "/feedback":
        assert [dict(one) for one in engine.tickets[-1].request.messages][1] == {
            "role": "assistant",
            "content": "Mara.",
        }


@pytest.mark.parametrize("field", ["function_call", "audio", "images"])
def test_a_field_of_a_message_that_would_change_the_reply_is_refused_by_name(client, engine, field):
    turns = [USER, {"role": "assistant", "content": "Mara.", field: ["x"]}, USER]
    answer = client.post(CHAT, json={"messages": turns})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, f"messages.1.{field}")
    assert engine.tickets == []


def test_a_message_without_words_is_the_assistant_s_alone(client, engine):
    for reply in ({"content": None}, {}, {"content": None, "refusal": "I will not."}):
        answer = client.post(CHAT, json={"messages": [USER, {"role": "assistant", **reply}, USER]})
        assert answer.status_code == 200, answer.text
    assert engine.tickets[-1].request.messages[1]["content"] == "I will not."
    for wrong in ({"content": None}, {}, {"content": []}):
        answer = client.post(CHAT, json={"messages": [{"role": "user", **wrong}]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "messages.0.content")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_empty_and_unknown_fields_of_a_request_are_ignored(client, engine, path):
    empty = {"tools": [], "functions": None, "stop": "", "response_format": {}, "logit_bias": {}, "metadata": {}}
    unknown = {"n": None, "reasoning_effort": "low", "no_such": {"a": 1}, "top_k": None, "stream_options": {"x": 1}}
    asked = HELLO if path == CHAT else {"prompt": "Hi"}
    assert client.post(path, json=asked | empty | unknown).status_code == 200
    assert engine.tickets[-1].request.stop == ()


@pytest.mark.parametrize(("given", "most"), [(None, 1_000_000), (-1, 1_000_000), (7, 7)])
def test_no_number_of_tokens_is_no_limit_in_a_chat(client, engine, given, most):
    for field in ("max_tokens", "max_completion_tokens"):
        assert client.post(CHAT, json=HELLO | {field: given}).status_code == 200
        assert engine.tickets[-1].request.max_new_tokens == most
    assert client.post(TEXT, json={"prompt": "Hi", "max_tokens": given}).status_code == 200
    assert engine.tickets[-1].request.max_new_tokens == (256 if given is None else most)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, HELLO, "messages"),
        (TEXT, {"prompt": "Hi"}, "prompt"),
        ("/generate", {"inputs": "Hi"}, "inputs"),
        ("/api/chat", {"messages": [USER]}, None),
    ],
)
def test_a_prompt_that_is_too_long_names_the_dialect_s_own_field(client, engine, monkeypatch, path, body, param):
    monkeypatch.setattr(engine, "refuse_submit", PromptTooLong("the prompt has 9 tokens"))
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error == "the prompt has 9 tokens" if param is None else error["param"] == param
