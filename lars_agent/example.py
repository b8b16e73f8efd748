"""Training examples: a conversation and the desired reply."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from lars_agent.errors import JobInvalid
from lars_agent.records import from_json, record


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation and the desired reply.

    Attributes:
        messages: the turns before the reply, oldest first; the last one is the user's.
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
