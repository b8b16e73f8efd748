"""Training examples: a conversation and the desired reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12


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
    """

    messages: tuple[Message, ...]
    response: str
    weight: float = 1.0
    source_id: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the JSON values of TRL's `prompt`/`completion` format, with weight and source id."""
        return {
            "prompt": [dict(message) for message in self.messages],
            "completion": [{"role": "assistant", "content": self.response}],
            "weight": self.weight,
            "source_id": self.source_id,
        }

    @classmethod
    def from_dict(cls, record: dict[str, object]) -> Example:
        """Return the example that `as_dict` returned. Raises KeyError, TypeError or ValueError."""
        prompt, completion = record["prompt"], record["completion"]
        if not isinstance(prompt, list) or not isinstance(completion, list) or len(completion) != 1:
            raise ValueError("an example needs a `prompt` list and a `completion` list of one message")
        return cls(
            messages=tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt),
            response=completion[0]["content"],
            weight=float(record.get("weight", 1.0)),  # type: ignore[arg-type]
            source_id=str(record.get("source_id", "")),
        )
