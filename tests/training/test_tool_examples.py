"""Conversations with tools as examples: they are curated and encoded as others are, and break no night."""

from __future__ import annotations

import json

import pytest

from lars_agent.example import Example, Message
from lars_agent.models.tool_calls import to_call
from lars_agent.models.tools import tool_result
from lars_agent.training.batches import encode
from lars_agent.training.config import TrainConfig
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.final_scores import kind_of
from lars_agent.training.job_rows import _with_wordings
from tests.tiny import tiny_tokenizer

PLAIN = Example((Message(role="user", content="What is my dog called?"),), "Biscuit.", 1.0, "f-0")
DROP, MASK = CurationPolicy(), CurationPolicy(secrets="mask")


def example(source: str = "f-1", result: str = "Sunny.", reply: str = "It is.", **arguments: object) -> Example:
    call = to_call("weather", arguments or {"city": "Rome"}, "c")
    asked = Message(role="user", content="Is my sister's city sunny?")
    calling = Message(role="assistant", content="", tool_calls=[call])
    return Example((asked, calling, tool_result(call, result)), reply, 1.0, source)


def kept(policy: CurationPolicy, *examples: Example) -> dict[str, Example]:
    curated = curate([PLAIN, *examples], policy)
    return {one.source_id: one for one in (*curated.train, *curated.heldout)}


def test_a_corrected_reply_to_a_result_is_kept_as_it_is():
    given, empty = example(), example("f-2", result="", reply="I cannot tell.")
    assert kept(DROP, given, empty) == {"f-0": PLAIN, "f-1": given, "f-2": empty}


def test_conversations_with_other_calls_do_not_replace_each_other():
    rome, oslo = example("f-1", city="Rome"), example("f-2", city="Oslo", reply="It is not.")
    assert set(kept(DROP, rome, oslo)) == {"f-0", "f-1", "f-2"}
    assert set(kept(DROP, rome, example("f-3", city="Rome", reply="No."))) == {"f-0", "f-3"}


@pytest.mark.parametrize("secret", ["My password is hunter2secret!", "password: hunter2secret!"])
def test_a_secret_in_a_call_or_a_result_is_not_learned(secret):
    for given in (example(note=secret), example(result=secret)):
        other = example("f-2", city="Oslo")
        assert set(kept(DROP, given, other)) == {"f-0", "f-2"}
        masked = kept(MASK, given, other)["f-1"]
        assert "hunter2secret" not in str(masked)
        assert [turn["role"] for turn in masked.messages] == ["user", "assistant", "tool"]
        (call,) = masked.messages[1]["tool_calls"]
        assert (call["id"], call["function"]["name"]) == ("c", "weather")


def test_it_can_be_encoded_and_is_not_asked_in_other_words():
    tokenizer = tiny_tokenizer()
    row = encode(tokenizer, Example.from_json(_line(example())), 4096)
    assert "Sunny." in tokenizer.decode(row.prompt)
    assert '"city": "Rome"' in tokenizer.decode(row.prompt)
    assert tokenizer.decode(row.reply) == "It is.<|im_end|>"
    assert _with_wordings(example(result="Is it?"), row, TrainConfig(), tokenizer).others == ()
    assert _with_wordings(PLAIN, row, TrainConfig(), tokenizer).others
    assert kind_of(example()) == kind_of(Example(example().messages[:1], "It is."))


def _line(given: Example) -> str:
    return json.dumps(given.as_dict())
