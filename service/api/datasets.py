"""Rows of the formats in which other programs have their training data.

OpenAI's preference  {"input": {"messages": [...]}, "preferred_output": [{...}], "non_preferred_output": [{...}]}
ShareGPT             {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
Alpaca               {"instruction": ..., "input": ..., "output": ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from lars_agent.example import Message
from service.api.fields import SpokenText, Text
from service.api.tools import to_messages
from service.api.trl import Completion, Dialogue, Row, RowTurn, desired, dialogue_news, plain, preferred
from service.api.turns import MAX_MESSAGES, awaits_reply
from service.db.records import NewFeedback

SPEAKERS = {"human": "user"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model"), "assistant")


class PreferenceInput(BaseModel):
    """The conversation that two replies answer."""

    messages: Annotated[
        list[Annotated[RowTurn, BeforeValidator(plain)]],
        Field(min_length=1, max_length=MAX_MESSAGES),
        AfterValidator(awaits_reply),
    ]


class OpenAIPreferenceRow(Row):
    """A prompt, the better reply and the worse one."""

    input: PreferenceInput
    preferred_output: Completion
    non_preferred_output: Completion

    def to_news(self) -> list[NewFeedback]:
        """Return the better reply as a correction of the worse one."""
        better, worse = self.preferred_output[0].content, self.non_preferred_output[0].content
        return preferred(to_messages(self.input.messages), better, worse)


def _as_turns(said: Any) -> Any:
    """Return what was said as messages, without questions at the end that nobody has answered."""
    if not isinstance(said, list):
        return said
    turns = [_as_turn(one) for one in said]
    while turns and isinstance(turns[-1], Mapping) and turns[-1].get("role") == "user":
        turns.pop()
    return turns


def _as_turn(one: Any) -> Any:
    if not isinstance(one, Mapping) or "from" not in one:
        return one
    speaker = one["from"]
    role = SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    rest = {key: value for key, value in one.items() if key not in ("from", "value")}
    return {**rest, "role": role, "content": one.get("value")}


class ShareGPTRow(Row):
    """A conversation that ends with the desired reply."""

    conversations: Annotated[Dialogue, BeforeValidator(_as_turns)]
    system: Text | None = None

    def to_news(self) -> list[NewFeedback]:
        """Return its last reply as the desired one."""
        (new,) = dialogue_news(self.conversations)
        return desired((*_system(self.system), *(new.messages or ())), new.correction or "")


class AlpacaRow(Row):
    """An instruction, what it is about, and the desired output; some files have a system prompt and earlier turns."""

    instruction: SpokenText
    input: Text | None = None
    output: SpokenText
    system: Text | None = None
    history: list[tuple[SpokenText, Text]] | None = None

    def to_news(self) -> list[NewFeedback]:
        """Return the output as the desired reply."""
        asked = "\n".join(filter(None, (self.instruction, self.input)))
        earlier = list[Message]()
        for question, answer in self.history or ():
            earlier += [Message(role="user", content=question), Message(role="assistant", content=answer)]
        return desired((*_system(self.system), *earlier, Message(role="user", content=asked)), self.output)


def _system(text: str | None) -> tuple[Message, ...]:
    return (Message(role="system", content=text),) if text and text.strip() else ()
