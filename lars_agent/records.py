"""Records: frozen dataclasses whose fields pydantic validates, read from JSON and written as JSON.

For configuration, manifests and messages between processes. Values made in a hot loop are plain dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import cache, wraps
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lars_agent.errors import ConfigError, LarsError

DEEPEST = 64  # JSON; what we write has a handful
T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def record(name: str, error: type[LarsError] = ConfigError) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen, validated dataclass; a constructor call with an invalid value raises `error`.

    `name` comes before the field's in the message (`lars` in `lars.rank`). As a field of another pydantic model the
    class validates as any pydantic dataclass does.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        construct = made.__init__

        @wraps(construct)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            try:
                construct(self, *args, **kwargs)
            except ValidationError as invalid:
                raise error(validation_message(invalid, name)) from invalid

        made.__init__, made.record_name, made.record_error = checked, name, error
        return made  # type: ignore[no-any-return]

    return decorate


def from_json(
    cls: type[T], data: str | bytes | Mapping[str, Any], error: type[LarsError] | None = None, source: object = ""
) -> T:
    """Return the record in `data`, JSON text or the values parsed from it; the inverse of `to_json` and `to_dict`.

    Raises `error`, by default the one that the record was declared with, naming `source` (a file), the field and the
    invalid value.
    """
    adapter, name = _adapter(cls), getattr(cls, "record_name", cls.__name__)
    declared: type[LarsError] = getattr(cls, "record_error", ConfigError)
    try:
        value: T = adapter.validate_json(data) if isinstance(data, str | bytes) else adapter.validate_python(data)
    except ValidationError as invalid:
        message = validation_message(invalid, f"{source}: {name}" if source else name)
        raise (error or declared)(message) from invalid
    return value


def parse_json(text: str | bytes) -> Any:
    """Return the JSON value in `text`. Raises ValueError, also for what is nested too deeply to be written."""
    try:
        value = json.loads(text)
        inner = [value]
        for _ in range(DEEPEST):
            inner = [item for one in inner if isinstance(one, dict | list) for item in _items(one)]
    except RecursionError:
        inner = [[]]
    if any(isinstance(one, dict | list) for one in inner):
        raise ValueError(f"lists or objects in it are nested more than {DEEPEST} deep")
    return value


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def to_json(value: object) -> str:
    """Return the record as the text of a JSON file."""
    return json.dumps(to_dict(value), indent=2, allow_nan=False) + "\n"


def to_dict(value: object) -> dict[str, Any]:
    """Return the record as JSON values: tuples become lists; NaN and infinities, which JSON lacks, become None."""
    return json.loads(_adapter(type(value)).dump_json(value))  # type: ignore[no-any-return]


def validation_message(error: ValidationError, name: str = "") -> str:
    """Return the first problem as one line: the field, the problem, the invalid value. `name` precedes the field's."""
    problem = error.errors(include_url=False)[0]
    *parents, last = (name, *problem["loc"])
    owner, value = ".".join(str(part) for part in parents if part != ""), problem["input"]
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{owner} has an unknown field {last!r}"
    if problem["type"] == "missing":
        return f"{owner} lacks the field {last!r}"
    text = problem["msg"].removeprefix("Value error, ")
    suffix = "" if ", not " in text else f", not {value!r:.80}"
    return f"{owner}{'.' * bool(owner)}{last}: {text}{suffix}"
