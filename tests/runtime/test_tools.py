"""Replies that call tools, by the real engine and a tiny model, which is brought to call one by a recalled answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import AddedToken

from lars_agent.example import Message
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.models.tool_calls import MARKS
from lars_agent.models.tools import ToolUse, definition
from lars_agent.runtime.detokenize import TextStream, special_texts
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import Generation, GenerationRequest, PastAnswer
from lars_agent.store.adapters import AdapterStore
from tests.tiny import save_roomy, tiny_tokenizer

LONG_S = 60.0
NOW = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
TOOLS = ToolUse((definition("now", "Tell the time."),))
ASKED = (Message(role="user", content="What time is it?"),)


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> OpenedModel:
    return open_model(save_roomy(tmp_path_factory.mktemp("model")), torch.float32)


@pytest.fixture(scope="module")
def engine(opened, tmp_path_factory) -> Iterator[Engine]:
    engine = Engine(opened, AdapterStore(tmp_path_factory.mktemp("adapters")), threads=1)
    yield engine
    engine.close()


def asking(answer: str, tools: ToolUse | None = TOOLS, **options) -> GenerationRequest:
    """A question to which the model says `answer`."""
    past = (PastAnswer(ASKED[0]["content"], answer, fit="same"),)
    recalled = {"recalled": past, "recall_limit": 1, "recall_tokens": 1000, "recall_strength": 1000.0}
    return GenerationRequest(ASKED, max_new_tokens=300, tools=tools, **recalled, **options)


def reply(engine: Engine, request: GenerationRequest) -> tuple[list[str], Generation]:
    """The texts and the names of called tools as they were streamed, and the whole reply."""
    ticket = engine.submit(request)
    pieces = list(ticket)
    whole = ticket.result(LONG_S)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(call for piece in pieces for call in piece.calls) == whole.calls
    assert tuple(one for piece in pieces for one in piece.logprobs) == whole.logprobs
    return [piece.text or piece.calls[0]["function"]["name"] for piece in pieces if piece.text or piece.calls], whole


def test_a_call_is_no_text(engine):
    streamed, whole = reply(engine, asking(f"I look.\n{NOW}", logprobs=1))
    assert "".join(streamed) == "I look.now"
    assert whole.text == "I look."
    assert [call["function"] for call in whole.calls] == [{"name": "now", "arguments": {"zone": "UTC"}}]
    assert len(whole.logprobs) == whole.generated_tokens == len(f"I look.\n{NOW}")


def test_without_tools_the_same_is_text(engine):
    for tools in (None, ToolUse((definition("later"),))):
        streamed, whole = reply(engine, asking(NOW, tools))
        assert (whole.text, whole.calls, "".join(streamed)) == (NOW, (), NOW)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_the_reply_ends_with_its_first_call_if_it_may_make_one(engine, is_parallel):
    short = NOW.replace('{"zone": "UTC"}', "{}")
    _, whole = reply(engine, asking(f"{short}{short}", replace(TOOLS, is_parallel=is_parallel)))
    assert len(whole.calls) == 1 + is_parallel
    assert (whole.generated_tokens == len(short) * 2) == is_parallel


def test_a_reply_that_must_call_goes_on_from_the_beginning_of_a_call(engine, opened):
    must = replace(TOOLS, must_call=True)
    request = GenerationRequest(ASKED, max_new_tokens=20, tools=must)
    _, whole = reply(engine, request)
    assert whole.prompt_tokens == len(encode_prompt(opened.tokenizer, ASKED, tools=must))
    assert whole.prompt_tokens > len(encode_prompt(opened.tokenizer, ASKED, tools=TOOLS))


ZONE = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
SEVERAL = (definition("now", "Tell the time.", ZONE), definition("later", "Wait."), definition("zone", "", ZONE))


@pytest.mark.parametrize("tools", [ToolUse(SEVERAL[:1], True), ToolUse(SEVERAL, True), ToolUse(SEVERAL, True, "zone")])
def test_a_reply_that_must_call_does_whatever_the_model_would_say(engine, tools):
    for seed in range(3):
        request = GenerationRequest(ASKED, max_new_tokens=300, temperature=1.5, seed=seed, tools=tools, logprobs=0)
        _, whole = reply(engine, request)
        (called,) = [call["function"] for call in whole.calls]
        assert called["name"] in tools.names
        assert called["name"] == "later" or called["arguments"]["zone"] in ("UTC", "CET")
        assert whole.text == ""


def test_a_call_that_cannot_be_enforced_is_begun(engine):
    strange = ToolUse((definition("now", "", ZONE | {"not": {"required": ["zone"]}}),), must_call=True)
    _, whole = reply(engine, GenerationRequest(ASKED, max_new_tokens=20, tools=strange))
    assert whole.calls == ()  # a random model does not write JSON
    assert whole.text  # and nothing of the beginning, which it did not say


def test_past_answers_stand_before_the_question_not_between_a_call_and_its_result(engine, opened):
    calling = Message(role="assistant", content="", tool_calls=[_call()])
    said = (*ASKED, calling, Message(role="tool", content="noon", tool_call_id="c", name="now"))
    past = (PastAnswer("What time is it?", "Late."),)
    request = GenerationRequest(said, max_new_tokens=1, recalled=past, recall_limit=1, recall_tokens=1000)
    assert request.question == "What time is it?"
    ticket = engine.submit(request)
    before = [Message(role="user", content="What time is it?"), Message(role="assistant", content="Late.")]
    assert ticket.result(LONG_S).prompt_tokens == len(encode_prompt(opened.tokenizer, [*before, *said]))


def _call():
    return {"id": "c", "type": "function", "function": {"name": "now", "arguments": {}}}


def test_special_tokens_that_mark_calls_are_text_where_calls_are_looked_for():
    tokenizer = tiny_tokenizer()
    special = [AddedToken(text, special=True, normalized=False) for text in ("[TOOL_CALLS]", "[ARGS]", "<other>")]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    text = "Zoë: [TOOL_CALLS]now[ARGS]{}<other>"
    for shown, expected in ((special_texts(tokenizer, MARKS), text), ({}, "Zoë: now{}")):
        stream = TextStream(tokenizer, [], shown=shown)
        said = [stream.push(token) for token in tokenizer.encode(text)]
        assert "".join([*said, stream.flush()]) == expected.replace("<other>", "")
