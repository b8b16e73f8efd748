"""Field types, request bodies and response bodies that several resources share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

from lars_agent.store.names import BASE, DEFAULT_PROFILE, PROFILE_PATTERN, VERSION_PATTERN, is_profile_name
from service.api.caller import default_profile, own_or_any, require_own
from service.api.errors import InvalidField

PAGE_ROWS = 100
MOST_IDS = 200
MAX_PAGE_ROWS = 1000
RATINGS = {"up": 1.0, "down": -1.0}
SURROGATES = re.compile("[\ud800-\udfff]")
BLANK = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # what `str.strip` removes
STORABLE = {"pattern": r"^[^\x00]*$"}  # as `storable` and `not_blank` have it, in JSON schema
SPOKEN = {"pattern": rf"^[^\x00]*[^\x00{BLANK}][^\x00]*$"}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
FLAGS = {"true": True, "false": False}


def storable(text: str) -> str:
    """Validate that `text` can be written as UTF-8 and contains no NUL."""
    if "\0" in text:
        raise ValueError("contains a NUL character (\\u0000)")
    if SURROGATES.search(text):
        raise ValueError("contains half of a surrogate pair, which is not a character")
    return text


def not_blank(text: str) -> str:
    """Validate that `text` contains more than white space."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def flag(value: Any) -> Any:
    """Return the flag of a query, `true` or `false`."""
    if isinstance(value, str) and value not in FLAGS:
        raise ValueError("must be true or false")
    return FLAGS[value] if isinstance(value, str) else value


def whole(value: Any) -> Any:
    """Return 5 for 5.0, which is an integer to JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def moment(value: Any) -> Any:
    """Validate that the text is a time with its timezone, as RFC 3339 has it; a number is none."""
    if isinstance(value, str) and not DATE_TIME.fullmatch(value):
        raise ValueError("must be a time with its timezone, such as 2026-11-25T12:00:00Z")
    return value


def as_list(value: Any) -> Any:
    """Return a single text as a list of one."""
    return [value] if isinstance(value, str) else value


def is_one_of(value: Any, values: Sequence[Any]) -> bool:
    """Return whether the JSON value is one of these; to JSON, unlike to Python, true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent (NaN, infinities) by null, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def version_label(version: Any) -> Any:
    """Return `v3` for 3 and `base` for None, the model without adapter; a label is returned unchanged."""
    if isinstance(version, str):
        return version
    return "base" if version is None else f"v{version}"


def parse_version(label: str) -> int | None:
    """Return the inverse of `version_label`. Raises InvalidField."""
    if label == "base":
        return None
    if match := VERSION_PATTERN.fullmatch(label):
        return int(match[1])
    raise InvalidField("version", f'must be "base" or a label such as "v3", not {label!a:.60}')


def _not_a_version(profile: str) -> str:
    if not is_profile_name(profile):
        raise ValueError("`base`, `v1`, `v2`, ... name versions; choose another name")
    return profile


def _rating(value: Any) -> Any:
    value = RATINGS.get(value, value) if isinstance(value, str) else value
    if isinstance(value, str) or (isinstance(value, float | int) and not -1 <= value <= 1):  # NaN, too
        raise ValueError('must be "up", "down" or a number from -1 to 1')
    return value


class Body(BaseModel):
    """A request body or query; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """A response body, which is made from a dictionary or from an object with these attributes."""

    model_config = ConfigDict(from_attributes=True)


Text = Annotated[str, Field(json_schema_extra=STORABLE), AfterValidator(storable)]
SpokenText = Annotated[str, Field(json_schema_extra=SPOKEN), AfterValidator(storable), AfterValidator(not_blank)]
Words = Annotated[
    str,
    Field(min_length=1, max_length=200, description="Words that a row's texts must hold, in upper or lower case."),
    Field(json_schema_extra=STORABLE),
    AfterValidator(storable),
]
Tag = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=STORABLE), AfterValidator(storable)]
Id = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=STORABLE), AfterValidator(storable)]
Flag = Annotated[bool, BeforeValidator(flag)]  # of a query
Switch = Annotated[bool, Field(strict=True)]  # of a body, as are these; 1, "1" and "yes" are none
Whole = Annotated[int, Field(strict=True), BeforeValidator(whole)]
Number = Annotated[float, Field(strict=True)]
Version = Annotated[
    str,
    Field(description='"v3", or "base".', json_schema_extra={"pattern": f"^({BASE}|{VERSION_PATTERN.pattern})$"}),
]
StopText = Annotated[Text, Field(min_length=1, max_length=1000)]
STOP = {"type": "string", "minLength": 1, "maxLength": 1000, **STORABLE}
Stops = Annotated[
    list[StopText],
    BeforeValidator(as_list),
    WithJsonSchema({"anyOf": [STOP, {"type": "array", "items": STOP, "maxItems": 16}]}),
]
Profile = Annotated[
    str,
    Field(pattern=f"^{PROFILE_PATTERN}$", description="A person or purpose."),
    Field(json_schema_extra={"pattern": f"^(?!(?:{BASE}|{VERSION_PATTERN.pattern})$){PROFILE_PATTERN}$"}),
    AfterValidator(_not_a_version),
    AfterValidator(require_own),
]
AnyProfile = Annotated[Profile | None, AfterValidator(own_or_any)]  # None: every profile that the caller may use
Rating = Annotated[
    Annotated[float, Field(strict=True)],
    BeforeValidator(_rating),
    WithJsonSchema({"anyOf": [{"enum": ["up", "down"]}, {"type": "number", "minimum": -1, "maximum": 1}]}),
]
JsonObject = Annotated[dict[str, Any], AfterValidator(finite)]
RecallChoice = Annotated[
    Switch | None,
    Field(description="Whether past corrections are put into the prompt; the profile's setting by default."),
]
VersionLabel = Annotated[
    str,
    BeforeValidator(version_label),
    Field(description='"v3", or "base" for the model without adapter.', examples=["v3"]),
]


class SamplingFields(BaseModel):
    """Sampling parameters that OpenAI's and Ollama's requests share; null is the default."""

    top_k: Whole | None = Field(default=None, ge=0, le=2**31)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops | None = Field(default=None, max_length=16)


class ProfileFilter(Body):
    """Filter by profile; null selects every profile."""

    profile: AnyProfile = Field(default=None, validate_default=True)


class ListQuery(ProfileFilter):
    """Filter and size of a list."""

    limit: int = Field(default=PAGE_ROWS, ge=1, le=MAX_PAGE_ROWS, description="Maximum number of rows.")


class PageQuery(ListQuery):
    """One page of a list."""

    after: Id | None = Field(default=None, description="Id of the last row of the page before.")


class ProfileQuery(Body):
    """The profile to work on."""

    profile: Profile = Field(default_factory=default_profile, json_schema_extra={"default": DEFAULT_PROFILE})


class TurnBody(Reply):
    """One message of a conversation; the assistant's may call tools, and a tool's is the result of a call."""

    role: str
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = Field(default=None, description="Of the tool.")

    @model_serializer(mode="wrap")
    def _without_null(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class RecalledBody(Reply):
    """A past correction in the prompt of a reply."""

    feedback_id: str
    score: float = Field(description="How near its question is to this one, -1 to 1.")


class Page(Reply):
    """One page of a list, newest first."""

    next: str | None = Field(description="`after` of the next page; null on the last page.")


class CountedPage(Page):
    """One page of a list, newest first."""

    total: int = Field(description="Number of rows on all pages.")


class Deleted(Reply):
    """What was deleted. Follow the rest under `GET /erasures/{erasure_id}`."""

    deleted: int = Field(
        description="Number of pieces of feedback, or of interactions where that is what was asked for."
    )
    erasure_id: str | None = Field(description="Null where there was nothing to delete.")


def next_page(records: Sequence[Any], limit: int) -> str | None:
    """Return the `after` of the page that follows `records`; None if this page is not full."""
    return records[-1].id if len(records) == limit else None
