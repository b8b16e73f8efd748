"""The feedback in a file of rows: JSON lines, or a JSON list, in one of many formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, NamedTuple

from pydantic import ValidationError

from service.api.datasets import AlpacaRow, OpenAIPreferenceRow, ShareGPTRow
from service.api.errors import InvalidField, describe
from service.api.fields import SPOKEN, STORABLE
from service.api.json_list import is_list, items
from service.api.open_webui import ChatRow, FeedbackRow
from service.api.trl import CompletionRow, KtoRow, MessagesRow, PreferenceRow, Row
from service.api.turns import MAX_MESSAGES
from service.db.records import NewFeedback

BATCH_BYTES = 2**16  # of rows that are stored together
# By the column that tells it; the first that a row has decides.
KINDS: tuple[tuple[str, type[Row]], ...] = (
    ("messages", MessagesRow),
    ("chosen", PreferenceRow),
    ("label", KtoRow),
    ("completion", CompletionRow),
    ("conversations", ShareGPTRow),
    ("instruction", AlpacaRow),
    ("preferred_output", OpenAIPreferenceRow),
    ("snapshot", FeedbackRow),
    ("chat", ChatRow),
)
NO_KIND = (
    "is of no known format; give messages, prompt and completion (and label), prompt with chosen and rejected, "
    "conversations, instruction and output, or what Open WebUI exports"
)


class Batch(NamedTuple):
    """The number of some rows, the feedback in them, and by the row's number the errors of those that are bad."""

    rows: int
    news: list[NewFeedback]
    refused: dict[int, InvalidField]


def read_batches(file: IO[bytes], profile: str, tags: tuple[str, ...] = ()) -> Iterator[Batch]:
    """Yield the feedback in the file, for `profile`, some rows at a time."""
    what, batches = ("item", _item_batches(file)) if is_list(file) else ("line", _line_batches(file))
    for rows in batches:
        batch = Batch(len(rows), [], {})
        for number, row in rows:
            try:
                for new in _read(row, f"{what} {number}"):
                    batch.news.append(replace(new, profile=profile, tags=(*new.tags, *tags)))
            except InvalidField as error:
                batch.refused[number] = error
        yield batch


def _line_batches(file: IO[bytes]) -> Iterator[list[tuple[int, Any]]]:
    first = 1
    while lines := file.readlines(BATCH_BYTES):
        yield [(number, _parsed(line)) for number, line in enumerate(lines, first) if line.strip()]
        first += len(lines)


def _item_batches(file: IO[bytes]) -> Iterator[list[tuple[int, Any]]]:
    batch, size, number = list[tuple[int, Any]](), 0, 0
    try:
        for number, (item, length) in enumerate(items(file), 1):
            batch.append((number, item))
            size += length
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except (ValueError, RecursionError) as error:
        batch.append((number + 1, error))
    yield batch


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _read(row: Any, where: str) -> list[NewFeedback]:
    """Return the feedback in a parsed row. Raises InvalidField that names its place."""
    if isinstance(row, Exception):
        raise InvalidField(where, f"is not JSON ({row!r:.200})") from row
    kind = next((kind for column, kind in KINDS if isinstance(row, dict) and column in row), None)
    if kind is None:
        raise InvalidField(where, NO_KIND)
    try:
        return kind.model_validate(row).to_news()
    except ValidationError as error:
        column, message = describe(error.errors(include_url=False))
        raise InvalidField(f"{where}.{column}", message.removeprefix(f"{column}: ")) from error
    except InvalidField as error:
        raise InvalidField(f"{where}.{error.param}", str(error).removeprefix(f"{error.param}: ")) from error


def _properties() -> dict[type[Row], dict[str, Any]]:
    """Return by kind the JSON schemas of its columns."""
    turns = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/ToolTurn"},
        "minItems": 2,
        "maxItems": MAX_MESSAGES,
    }
    text = {"type": "string", **SPOKEN}
    own = {"role": {"const": "assistant"}, "content": text}
    turn = {"type": "object", "properties": own, "required": [*own], "additionalProperties": False}
    replies = {"type": "array", "items": turn, "minItems": 1, "maxItems": 1}
    prompt, reply = {"anyOf": [text, {**turns, "minItems": 1}]}, {"anyOf": [text, replies]}
    spoken = {"from": {"enum": ["human", "gpt", "system"]}, "value": text}
    said = {**turns, "items": {"type": "object", "properties": spoken, "required": [*spoken]}}
    asked = {"type": "object", "properties": {"messages": {**turns, "minItems": 1}}, "required": ["messages"]}
    rated = {"type": {"const": "rating"}, "data": {"$ref": "#/components/schemas/RatingData"}}
    return {
        MessagesRow: {"messages": turns},
        PreferenceRow: {"prompt": prompt, "chosen": reply, "rejected": reply},
        KtoRow: {"prompt": prompt, "completion": reply, "label": {"type": "boolean"}},
        CompletionRow: {"prompt": prompt, "completion": reply},
        ShareGPTRow: {"conversations": said},
        AlpacaRow: {"instruction": text, "input": {"type": "string", **STORABLE}, "output": text},
        OpenAIPreferenceRow: {"input": asked, "preferred_output": replies, "non_preferred_output": replies},
        FeedbackRow: {**rated, "meta": {"type": "object"}, "snapshot": {"type": "object"}},
        ChatRow: {"chat": {"type": "object"}},
    }


def _rows() -> dict[str, Any]:
    """Return the JSON schema of the rows; the columns of an earlier kind decide what a row is."""
    kinds, earlier, properties = list[dict[str, Any]](), list[str](), _properties()
    for column, kind in KINDS:
        own = properties[kind]
        required = [name for name in own if name != "input" or kind is OpenAIPreferenceRow]
        others = {"not": {"anyOf": [{"required": [name]} for name in earlier]}} if earlier else {}
        kinds.append({"type": "object", "properties": own, "required": required, **others})
        earlier.append(column)
    return {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "description": "One JSON object per line."}


ROWS = _rows()
