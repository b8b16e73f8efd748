"""Training examples: a conversation and the desired reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from lars_agent.errors import JobInvalid
from lars_agent.records import from_json, record


class FunctionCall(TypedDict):
    """The name of a function, and its arguments by name."""

    name: str
    arguments: dict[str, Any]


class ToolCall(TypedDict):
    """A call of a tool, as chat templates take it."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it.

    The assistant's may call tools (`tool_calls`). A `tool` turn is the result of the call `tool_call_id` of the tool
    `name`.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


def asked_at(messages: Sequence[Message]) -> int:
    """Return the index of the user's last message, behind which tools may have been called; -1 if there is none."""
    return next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), -1)


@dataclass(frozen=True)
class Example:
    """A conversation and the desired reply.

    Attributes:
        messages: the turns before the reply, oldest first; the last one is the user's, or a tool's result.
        response: the desired reply.
        weight: weight of its loss, 1.0 for a correction.
        source_id: id of the feedback it comes from, recorded in the adapter's manifest.
        created: when that feedback was given; known to the curation only.
        disliked: whether the same reply to the same messages was disliked later; known to the curation only.
    """

    messages: tuple[Message, ...]
    response: str
    weight: float = 1.0
    source_id: str = ""
    created: datetime | None = field(default=None, compare=False)
    disliked: bool = field(default=False, compare=False)

    def as_dict(self) -> dict[str, object]:
        """Return the JSON values of TRL's `prompt`/`completion` format, with weight and source id."""
        return {
            "prompt": [dict(message) for message in self.messages],
            "completion": [{"role": "assistant", "content": self.response}],
            "weight": self.weight,
            "source_id": self.source_id,
        }

    @classmethod
    def from_json(cls, line: str, source: object = "") -> Example:
        """Return the example of one line of `as_dict`'s JSON. Raises JobInvalid, naming `source` and the field."""
        read = from_json(_Line, line, source=source)
        return cls(read.prompt, read.completion[0]["content"], read.weight, read.source_id)


@record("example", JobInvalid)
class _Line:
    """TRL's `prompt`/`completion` format, with weight and source id."""

    prompt: Annotated[tuple[Message, ...], Field(min_length=1)]
    completion: tuple[Message]
    weight: float = 1.0
    source_id: str = ""
