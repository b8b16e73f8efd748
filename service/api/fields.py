"""The types of fields that several requests share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from lars_agent.example import Message
from lars_agent.store.names import PROFILE_PATTERN, VERSION_PATTERN, is_profile_name
from service.api.errors import InvalidField

MAX_MESSAGES = 1000
RATINGS = {"up": 1.0, "down": -1.0}
SURROGATES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """`text`, which can be written as UTF-8 and holds no NUL."""
    if "\0" in text:
        raise ValueError("holds a NUL character (\\u0000)")
    if SURROGATES.search(text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


def spoken(text: str) -> str:
    """`text`, which holds more than white space."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _not_a_version(profile: str) -> str:
    if not is_profile_name(profile):
        raise ValueError("`base`, `v1`, `v2`, ... name versions; choose another name")
    return profile


def _rating(value: Any) -> Any:
    if isinstance(value, str):
        if value not in RATINGS:
            raise ValueError('must be "up", "down" or a number from -1 to 1')
        return RATINGS[value]
    return value


def _conversation(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _in_range(value: float) -> float:
    if not -1 <= value <= 1:  # also what is no number
        raise ValueError('must be "up", "down" or a number from -1 to 1')
    return value


Text = Annotated[str, AfterValidator(storable)]
SpokenText = Annotated[str, AfterValidator(storable), AfterValidator(spoken)]
Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(storable)]
Id = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(storable)]
Profile = Annotated[
    str, Field(pattern=f"^{PROFILE_PATTERN}$", description="A person or purpose."), AfterValidator(_not_a_version)
]
Rating = Annotated[
    Annotated[float, Field(strict=True), AfterValidator(_in_range)],
    BeforeValidator(_rating),
    WithJsonSchema({"anyOf": [{"enum": ["up", "down"]}, {"type": "number", "minimum": -1, "maximum": 1}]}),
]


class Body(BaseModel):
    """A request body; a field it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(Body):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text = Field(description="Only the assistant may have said nothing.")

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: str, info: ValidationInfo) -> str:
        return content if info.data.get("role") == "assistant" else spoken(content)

    def to_message(self) -> Message:
        """The shape the library works with."""
        return Message(role=self.role, content=self.content)


def listed(value: Any) -> Any:
    """A single text as a list of one."""
    return [value] if isinstance(value, str) else value


Stops = Annotated[list[Annotated[Text, Field(min_length=1, max_length=1000)]], BeforeValidator(listed)]


def _user_has_the_last_word(turns: list[Turn]) -> list[Turn]:
    if turns[-1].role != "user":
        raise ValueError(f"the last message must be the user's, not the {turns[-1].role}'s")
    return turns


Messages = Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(_user_has_the_last_word)]
TextOrMessages = Annotated[
    Messages,
    BeforeValidator(_conversation),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": "One user message."},
                {"type": "array", "items": {"$ref": "#/components/schemas/Turn"}, "description": "A conversation."},
            ]
        }
    ),
]


def to_messages(turns: list[Turn]) -> tuple[Message, ...]:
    """The conversation as the library works with it."""
    return tuple(turn.to_message() for turn in turns)


def version_label(version: int | None) -> str:
    """`v3`, or `base` for the model without adapter."""
    return "base" if version is None else f"v{version}"


def parse_version(label: str) -> int | None:
    """The inverse of `version_label`. Raises InvalidField."""
    if label == "base":
        return None
    if match := VERSION_PATTERN.fullmatch(label):
        return int(match[1])
    raise InvalidField("version", f'must be "base" or a label such as "v3", not {label!a:.60}')
