"""Export and import of feedback as JSON lines in TRL's formats, one row per line.

messages           {"messages": [..., {"role": "assistant", ...}]}           the desired reply
prompt-completion  {"prompt": [...], "completion": [{...}]}                  the desired reply
preference         {"prompt": [...], "chosen": [{...}], "rejected": [{...}]} a correction and the reply it corrects
kto                {"prompt": [...], "completion": [{...}], "label": bool}   a rating
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from lars_agent.example import Message
from service.api.errors import InvalidField, describe
from service.api.fields import (
    SPOKEN,
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


class ReplyTurn(Turn):
    """A reply that is not empty."""

    content: SpokenText


def _one_reply(turns: list[ReplyTurn]) -> list[ReplyTurn]:
    if [turn.role for turn in turns] != ["assistant"]:
        raise ValueError("must be one message of the assistant")
    return turns


def _reply(value: Any) -> Any:
    return [Message(role="assistant", content=value)] if isinstance(value, str) else value


def _ends_with_reply(turns: list[ToolTurn]) -> list[ToolTurn]:
    roles = [turn.role for turn in turns[-2:]]
    if roles[1:] != ["assistant"] or roles[0] == "assistant":
        raise ValueError("must end with a message of the user, or a tool's result, and the assistant's reply")
    not_blank(turns[-1].content)
    return turns


REPLY_TURN = {
    "type": "object",
    "properties": {"role": {"const": "assistant"}, "content": {"type": "string", **SPOKEN}},
    "required": ["role", "content"],
}
ONE_REPLY = {"type": "array", "items": REPLY_TURN, "minItems": 1, "maxItems": 1}
Completion = Annotated[
    list[ReplyTurn],
    BeforeValidator(_reply),
    AfterValidator(_one_reply),
]
Dialogue = Annotated[list[ToolTurn], Field(max_length=MAX_MESSAGES), AfterValidator(_ends_with_reply)]


class MessagesRow(BaseModel):
    """A conversation that ends with the desired reply; here and below, columns that TRL does not read are ignored."""

    messages: Dialogue


class CompletionRow(BaseModel):
    """A prompt and the desired reply."""

    prompt: TextOrToolTurns
    completion: Completion


class PreferenceRow(BaseModel):
    """A prompt, the better reply and the worse one."""

    prompt: TextOrToolTurns
    chosen: Completion
    rejected: Completion


class KtoRow(CompletionRow):
    """A prompt, a reply, and whether it is good."""

    label: Switch


AnyRow = MessagesRow | PreferenceRow | KtoRow | CompletionRow
KINDS: tuple[tuple[str, type[AnyRow]], ...] = (
    ("messages", MessagesRow),
    ("chosen", PreferenceRow),
    ("label", KtoRow),
    ("completion", CompletionRow),
)


def _rows() -> dict[str, Any]:
    """Return the JSON schema of the lines; the columns of an earlier kind decide what a row is."""
    turns = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/ToolTurn"},
        "minItems": 2,
        "maxItems": MAX_MESSAGES,
    }
    prompt = {"anyOf": [{"type": "string", **SPOKEN}, {**turns, "minItems": 1}]}
    reply = {"anyOf": [{"type": "string", **SPOKEN}, ONE_REPLY]}
    columns = {"messages": turns, "prompt": prompt, "completion": reply, "chosen": reply, "rejected": reply}
    columns["label"] = {"type": "boolean"}
    kinds, earlier = list[dict[str, Any]](), list[str]()
    for column, kind in KINDS:
        own = {name: columns[name] for name in kind.model_fields}
        others = {"not": {"anyOf": [{"required": [name]} for name in earlier]}} if earlier else {}
        kinds.append({"type": "object", "properties": own, "required": list(own), **others})
        earlier.append(column)
    return {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "description": "One JSON object per line."}


ROWS = _rows()


def from_lines(
    lines: Sequence[bytes], profile: str, tags: tuple[str, ...] = (), first: int = 1
) -> tuple[list[NewFeedback], dict[int, InvalidField]]:
    """Return the feedback in the lines, for `profile`, and by number the errors of lines that hold none.

    `first` is the number of the first line.
    """
    news, refused = list[NewFeedback](), dict[int, InvalidField]()
    for number, line in enumerate(lines, start=first):
        try:
            news += [replace(_read(line, number), profile=profile, tags=tags)] if line.strip() else []
        except InvalidField as error:
            refused[number] = error
    return news, refused


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
        return _to_new(kind.model_validate(row))
    except ValidationError as error:
        column, message = describe(error.errors(include_url=False))
        raise InvalidField(f"{where}.{column}", message.removeprefix(f"{column}: ")) from error


def _to_new(row: AnyRow) -> NewFeedback:
    if isinstance(row, MessagesRow):
        *prompt, reply = row.messages
        return NewFeedback(messages=to_messages(prompt), response=reply.content, correction=reply.content)
    messages = to_messages(row.prompt)
    if isinstance(row, PreferenceRow):
        return NewFeedback(messages=messages, response=row.rejected[0].content, correction=row.chosen[0].content)
    text = row.completion[0].content
    if isinstance(row, KtoRow):
        return NewFeedback(messages=messages, response=text, rating=1.0 if row.label else -1.0)
    return NewFeedback(messages=messages, response=text, correction=text)
