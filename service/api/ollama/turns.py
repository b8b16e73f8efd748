"""Messages in Ollama's dialect."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from service.api.fields import MAX_MESSAGES, Text, Turn, by_role

EMPTY: tuple[Any, ...] = (None, "", [], {})


def nothing(value: Any) -> None:
    """Validate that a field that is not supported holds nothing."""
    if isinstance(value, bool | int | float) or value not in EMPTY:
        raise ValueError("is not supported; leave it out, or empty")


def asks(turns: list[OllamaTurn]) -> list[OllamaTurn]:
    """Validate that the last message, if there is one, is the user's or the system's."""
    if turns and turns[-1].role == "assistant":
        raise ValueError("the last message must be the user's, not the assistant's")
    return turns


Nothing = Annotated[
    None, BeforeValidator(nothing), WithJsonSchema({"enum": list(EMPTY), "description": "Not supported."})
]


class OllamaTurn(Turn):
    """A message. What Ollama does not know is ignored, and so are the thoughts that led to an earlier reply."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=by_role)

    content: Annotated[Text, BeforeValidator(lambda value: "" if value is None else value)] = Field(
        default="", validate_default=True, description="Only the assistant's may be empty."
    )
    images: Nothing = None
    tool_calls: Nothing = None


OllamaTurns = Annotated[
    list[OllamaTurn],
    BeforeValidator(lambda value: [] if value is None else value),
    Field(max_length=MAX_MESSAGES),
    AfterValidator(asks),
]
