"""Feedback as JSON lines in TRL's conventions, out and in. One row, one line; nothing but what TRL reads.

messages           {"messages": [..., {"role": "assistant", ...}]}           what was wanted
prompt-completion  {"prompt": [...], "completion": [{...}]}                  what was wanted
preference         {"prompt": [...], "chosen": [{...}], "rejected": [{...}]} a correction and what it corrects
kto                {"prompt": [...], "completion": [{...}], "label": bool}   a rating
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lars_agent.example import Message
from service.api.errors import InvalidField, describe
from service.api.fields import MAX_MESSAGES, SpokenText, TextOrMessages, Turn, not_blank, to_messages
from service.db import FeedbackRecord, NewFeedback, to_example

Format = Literal["messages", "prompt-completion", "preference", "kto"]


def _said(text: str) -> list[Message]:
    return [Message(role="assistant", content=text)]


def _as_messages(record: FeedbackRecord) -> dict[str, Any] | None:
    example = to_example(record)
    return None if example is None else {"messages": [*example.messages, *_said(example.response)]}


def _as_completion(record: FeedbackRecord) -> dict[str, Any] | None:
    example = to_example(record)
    return None if example is None else {"prompt": list(example.messages), "completion": _said(example.response)}


def _as_preference(record: FeedbackRecord) -> dict[str, Any] | None:
    if record.correction is None or record.correction == record.response:
        return None
    chosen, rejected = _said(record.correction), _said(record.response)
    return {"prompt": list(record.messages), "chosen": chosen, "rejected": rejected}


def _as_kto(record: FeedbackRecord) -> dict[str, Any] | None:
    if record.rating is None or record.rating == 0:
        return None
    return {"prompt": list(record.messages), "completion": _said(record.response), "label": record.rating > 0}


WRITERS: dict[Format, Callable[[FeedbackRecord], dict[str, Any] | None]] = {
    "messages": _as_messages,
    "prompt-completion": _as_completion,
    "preference": _as_preference,
    "kto": _as_kto,
}


def to_lines(records: Iterable[FeedbackRecord], form: Format) -> Iterator[str]:
    """One line for each record that says something in this form."""
    for record in records:
        if (row := WRITERS[form](record)) is not None:
            yield json.dumps(row) + "\n"


class Reply(Turn):
    """A reply in which something is said."""

    content: SpokenText


def _one_reply(turns: list[Reply]) -> list[Reply]:
    if [turn.role for turn in turns] != ["assistant"]:
        raise ValueError("must be one message of the assistant")
    return turns


def _reply(value: Any) -> Any:
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else value


def _ends_with_reply(turns: list[Turn]) -> list[Turn]:
    if [turn.role for turn in turns[-2:]] != ["user", "assistant"]:
        raise ValueError("must end with a message of the user and the assistant's reply")
    not_blank(turns[-1].content)
    return turns


Completion = Annotated[list[Reply], BeforeValidator(_reply), AfterValidator(_one_reply)]
Dialogue = Annotated[list[Turn], Field(max_length=MAX_MESSAGES), AfterValidator(_ends_with_reply)]


class Row(BaseModel):
    """A line of a data set; columns that TRL does not read are passed over."""

    model_config = ConfigDict(extra="ignore")


class MessagesRow(Row):
    """A conversation that ends with the reply that was wanted."""

    messages: Dialogue

    def to_new(self) -> NewFeedback:
        """The feedback it is."""
        wanted = self.messages[-1].content
        return NewFeedback(messages=to_messages(self.messages[:-1]), response=wanted, correction=wanted)


class CompletionRow(Row):
    """A prompt and the reply that was wanted."""

    prompt: TextOrMessages
    completion: Completion

    def to_new(self) -> NewFeedback:
        """The feedback it is."""
        wanted = self.completion[0].content
        return NewFeedback(messages=to_messages(self.prompt), response=wanted, correction=wanted)


class PreferenceRow(Row):
    """A prompt, the better reply and the worse."""

    prompt: TextOrMessages
    chosen: Completion
    rejected: Completion

    def to_new(self) -> NewFeedback:
        """The feedback it is."""
        chosen, rejected = self.chosen[0].content, self.rejected[0].content
        return NewFeedback(messages=to_messages(self.prompt), response=rejected, correction=chosen)


class KtoRow(Row):
    """A prompt, a reply, and whether it was good."""

    prompt: TextOrMessages
    completion: Completion
    label: bool

    def to_new(self) -> NewFeedback:
        """The feedback it is."""
        rating = 1.0 if self.label else -1.0
        return NewFeedback(messages=to_messages(self.prompt), response=self.completion[0].content, rating=rating)


KINDS: tuple[tuple[str, type[MessagesRow | CompletionRow | PreferenceRow | KtoRow]], ...] = (
    ("messages", MessagesRow),
    ("chosen", PreferenceRow),
    ("label", KtoRow),
    ("completion", CompletionRow),
)


def from_lines(lines: Sequence[bytes], profile: str, tags: tuple[str, ...] = ()) -> list[NewFeedback]:
    """The feedback that the lines hold, for `profile`. Raises InvalidField that names the line and the column."""
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(replace(_read(line, number), profile=profile, tags=tags))
    if not found:
        raise InvalidField("body", "holds no line; send one JSON object a line")
    return found


def _read(line: bytes, number: int) -> NewFeedback:
    where = f"line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidField(where, f"is not JSON ({error!r:.200})") from error
    kind = next((kind for column, kind in KINDS if isinstance(row, dict) and column in row), None)
    if kind is None:
        raise InvalidField(where, "needs messages; prompt and completion (and label); or prompt, chosen and rejected")
    try:
        return kind.model_validate(row).to_new()
    except ValidationError as error:
        column, message = describe(error.errors(include_url=False))
        raise InvalidField(f"{where}.{column}", message.removeprefix(f"{column}: ")) from error
