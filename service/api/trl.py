"""Rows of feedback in TRL's formats, to export and to import.

messages           {"messages": [..., {"role": "assistant", ...}]}           the desired reply
prompt-completion  {"prompt": [...], "completion": [{...}]}                  the desired reply
preference         {"prompt": [...], "chosen": [{...}], "rejected": [{...}]} a correction and the reply it corrects
kto                {"prompt": [...], "completion": [{...}], "label": bool}   a rating
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from lars_agent.example import Message
from service.api.fields import (
    SpokenText,
    Switch,
    not_blank,
)
from service.api.tools import TextOrToolTurns, ToolTurn, to_messages
from service.api.turns import MAX_MESSAGES, Turn
from service.db.feedback import to_example
from service.db.records import FeedbackRecord, NewFeedback

Format = Literal["messages", "prompt-completion", "preference", "kto"]


def to_row(record: FeedbackRecord, form: Format) -> dict[str, Any] | None:
    """Return `record` in one of TRL's formats; None if it has nothing to say in this one."""
    if form == "preference":
        if not record.response or record.correction is None or record.correction == record.response:
            return None
        chosen, rejected = _reply(record.correction), _reply(record.response)
        return {"prompt": list(record.messages), "chosen": chosen, "rejected": rejected}
    if form == "kto":
        if not record.rating:
            return None
        return {"prompt": list(record.messages), "completion": _reply(record.response), "label": record.rating > 0}
    if (example := to_example(record)) is None:
        return None
    if form == "messages":
        return {"messages": [*example.messages, *_reply(example.response)]}
    return {"prompt": list(example.messages), "completion": _reply(example.response)}


def to_lines(records: Iterable[FeedbackRecord], form: Format) -> Iterator[str]:
    """Yield one line per record that has something to say in this format."""
    for record in records:
        if (row := to_row(record, form)) is not None:
            yield json.dumps(row) + "\n"


def plain(turn: Any) -> Any:
    """Return OpenAI's message as a turn: its text in one piece."""
    if not isinstance(turn, Mapping):
        return turn
    text = {**turn, "content": text_of_parts(turn.get("content"))}
    return {**text, "role": "system"} if text.get("role") == "developer" else text


def text_of_parts(content: Any) -> Any:
    """Return parts that are all text in one piece, anything else as it is."""
    if isinstance(content, list) and all(isinstance(one, Mapping) and one.get("type") == "text" for one in content):
        return "".join(str(one.get("text", "")) for one in content)
    return content


class RowTurn(ToolTurn):
    """A message; with `weight` 0 it is read, but not learned."""

    weight: Literal[0, 1] | None = None


class ReplyTurn(Turn):
    """A reply that is not empty."""

    content: SpokenText


def _one_reply(turns: list[ReplyTurn]) -> list[ReplyTurn]:
    if [turn.role for turn in turns] != ["assistant"]:
        raise ValueError("must be one message of the assistant")
    return turns


def _reply(value: Any) -> Any:
    return [Message(role="assistant", content=value)] if isinstance(value, str) else value


def _ends_with_reply(turns: list[RowTurn]) -> list[RowTurn]:
    roles = [turn.role for turn in turns[-2:]]
    if roles[1:] != ["assistant"] or roles[0] == "assistant":
        raise ValueError("must end with a message of the user, or a tool's result, and the assistant's reply")
    if turns[-1].weight == 0:
        raise ValueError("must end with a reply to learn; the weight of this one is 0")
    not_blank(turns[-1].content)
    return turns


Completion = Annotated[
    list[Annotated[ReplyTurn, BeforeValidator(plain)]],
    BeforeValidator(_reply),
    AfterValidator(_one_reply),
]
Dialogue = Annotated[
    list[Annotated[RowTurn, BeforeValidator(plain)]],
    Field(max_length=MAX_MESSAGES),
    AfterValidator(_ends_with_reply),
]


class Row(BaseModel):
    """A row of an import; columns that its kind does not have are ignored."""

    def to_news(self) -> list[NewFeedback]:
        """Return the feedback in it."""
        raise NotImplementedError


def desired(messages: tuple[Message, ...], reply: str) -> list[NewFeedback]:
    """Return the feedback that tells the desired reply."""
    return [NewFeedback(messages=messages, response=reply, correction=reply)]


def preferred(messages: tuple[Message, ...], better: str, worse: str) -> list[NewFeedback]:
    """Return the feedback that tells the better of two replies."""
    return [NewFeedback(messages=messages, response=worse, correction=better)]


class MessagesRow(Row):
    """A conversation that ends with the desired reply."""

    messages: Dialogue

    def to_news(self) -> list[NewFeedback]:
        """Return its last reply as the desired one."""
        return dialogue_news(self.messages)


class CompletionRow(Row):
    """A prompt and the desired reply."""

    prompt: TextOrToolTurns
    completion: Completion

    def to_news(self) -> list[NewFeedback]:
        """Return the desired reply."""
        return desired(to_messages(self.prompt), self.completion[0].content)


class PreferenceRow(Row):
    """A prompt, the better reply and the worse one."""

    prompt: TextOrToolTurns
    chosen: Completion
    rejected: Completion

    def to_news(self) -> list[NewFeedback]:
        """Return the better reply as a correction of the worse one."""
        return preferred(to_messages(self.prompt), self.chosen[0].content, self.rejected[0].content)


class KtoRow(CompletionRow):
    """A prompt, a reply, and whether it is good."""

    label: Switch

    def to_news(self) -> list[NewFeedback]:
        """Return the rating."""
        rating, response = 1.0 if self.label else -1.0, self.completion[0].content
        return [NewFeedback(messages=to_messages(self.prompt), response=response, rating=rating)]


def dialogue_news(turns: list[RowTurn]) -> list[NewFeedback]:
    """Return the last of the turns as the desired reply to those before it."""
    *prompt, reply = turns
    return desired(to_messages(prompt), reply.content)
