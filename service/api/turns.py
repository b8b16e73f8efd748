"""Messages of a conversation, in every dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lars_agent.example import Message
from service.api.fields import SPOKEN, Body, Text, not_blank

MAX_MESSAGES = 1000
RESULTS = ("tool",)  # roles of results; see `service.api.tools`
BLANK_ROLES = ("assistant", *RESULTS)  # of messages that may be blank
EMPTY: tuple[Any, ...] = (None, "", [], {})
# Fields of a message that would change the reply, and are not supported: refused unless they are empty.
NOT_SUPPORTED = frozenset({"tool_calls", "function_call", "audio", "images"})


def without_empty(values: Mapping[Any, Any], kept: frozenset[str]) -> dict[Any, Any]:
    """Return the fields of a request or message but for those that are null or empty and not among `kept`."""
    return {key: value for key, value in values.items() if key in kept or not is_empty(value)}


def is_empty(value: Any) -> bool:
    """Return True for null, and for an empty text, list or object."""
    return any(value is one or (type(value) is type(one) and value == one) for one in EMPTY)


def nothing(value: Any) -> None:
    """Validate that a field that is not supported holds nothing."""
    if not is_empty(value):
        raise ValueError("is not supported; leave it out, or empty")


Nothing = Annotated[
    None, BeforeValidator(nothing), WithJsonSchema({"enum": list(EMPTY), "description": "Not supported."})
]


def by_role(schema: dict[str, Any]) -> None:
    """Describe in the schema of a message that only the assistant's may be blank, and which fields must be empty."""
    off = {name: {"enum": list(EMPTY), "description": "Not supported."} for name in sorted(NOT_SUPPORTED)}
    properties = off | schema.pop("properties")
    roles, content = properties["role"]["enum"], properties["content"]
    kind = schema.pop("type")
    for name in ("required", "additionalProperties"):  # others are ignored
        schema.pop(name)
    kinds = (
        (["assistant"], content, ["role"]),
        ([role for role in roles if role in RESULTS], content, ["role", "content"]),
        ([role for role in roles if role not in BLANK_ROLES], spoken(content), ["role", "content"]),
    )
    schema["anyOf"] = [
        {
            "type": kind,
            "properties": properties | {"role": {"type": "string", "enum": names}, "content": own},
            "required": required,
        }
        for names, own, required in kinds
        if names
    ]


def spoken(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a content that must not be blank: a text, or a list of parts one of which is not."""
    if "anyOf" in content:
        kinds = [spoken(kind) for kind in content["anyOf"] if kind.get("type") != "null"]
        return {**content, "anyOf": kinds}
    if content["type"] == "array":
        return {**content, "contains": {"type": "object", "properties": {"text": SPOKEN}}, "minItems": 1}
    return {**content, **SPOKEN}


class Turn(Body):
    """One message of a conversation; fields that are null, empty or unknown are ignored."""

    model_config = ConfigDict(json_schema_extra=by_role)

    role: Literal["system", "user", "assistant"]
    content: Text = Field(description="Only the assistant's may be empty.")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = frozenset(cls.model_fields)
        given = {key: value for key, value in values.items() if key in own or key in NOT_SUPPORTED}
        if given.get("role") == "assistant" and given.get("content") is None:
            refusal = values.get("refusal")
            given["content"] = refusal if isinstance(refusal, str) else ""
        return without_empty(given, frozenset({"role", "content"}))

    @field_validator("content")
    @classmethod
    def _not_blank(cls, content: str, info: ValidationInfo) -> str:
        return content if info.data.get("role") in BLANK_ROLES else not_blank(content)


def awaits_reply(turns: list[Turn]) -> list[Turn]:
    """Validate that the last message, if there is one, is not the assistant's."""
    if turns and turns[-1].role == "assistant":
        raise ValueError("the last message must be the user's, not the assistant's")
    return turns


def asks(turns: list[Turn]) -> list[Turn]:
    """Validate that a message is there to be replied to, before one with which the assistant begins the reply."""
    if {turn.role for turn in turns} == {"assistant"}:
        raise ValueError("there must be a message to reply to before the assistant's, which begins the reply")
    return turns


def to_messages(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Convert request messages to the library's."""
    return tuple(Message(role=turn.role, content=turn.content) for turn in turns)


def split_prefill(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """Return the messages to reply to, and the beginning of the reply: the last message, if it is the assistant's."""
    if messages and messages[-1]["role"] == "assistant":
        return tuple(messages[:-1]), messages[-1]["content"]
    return tuple(messages), ""


def as_turns(value: Any) -> Any:
    """Return a text as a conversation of one message of the user."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def join_texts(value: Any, noun: str, kinds: Sequence[str], between: str = "") -> Any:
    """Join a content's parts of text, whose types are these `kinds`. Raises ValueError for another of the parts.

    A content that is no list is returned as it is; `noun` is what the dialect calls the parts.
    """
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, Mapping) and part.get("type") in kinds and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise ValueError(f"{noun} of type {kind!a:.40} are not supported, but {', '.join(kinds)}")
    return between.join(part["text"] for part in value)


TextOrConversation = Annotated[
    list[Turn],
    Field(min_length=1, max_length=MAX_MESSAGES),
    AfterValidator(asks),
    BeforeValidator(as_turns),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": "One user message.", **SPOKEN},
                {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/Turn"},
                    "minItems": 1,
                    "maxItems": MAX_MESSAGES,
                    "description": "A conversation; if the last message is the assistant's, the reply goes on with it.",
                },
            ]
        }
    ),
]
