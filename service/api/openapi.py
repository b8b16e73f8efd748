"""What FastAPI's OpenAPI document does not know by itself: the token, the dialects' errors, parameters without null."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
BEARER = {"type": "http", "scheme": "bearer", "description": "the token of `lars-agent token`, or one for a profile"}


def complete(document: Json, *, is_open: Callable[[str, str], bool], has_token: bool) -> Json:
    """Return the document with these, for a daemon with or without a token, which what `is_open` needs not."""
    _name_limits(document["components"]["schemas"])
    for path, method, operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
        if has_token and not is_open(path, method):
            operation["security"] = [{"bearer": []}]
    if has_token:
        document["components"]["securitySchemes"] = {"bearer": BEARER}
    return document


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _name_limits(value: Any) -> None:
    """Give limits their names in JSON schema where pydantic leaves its own: on a type with a validator before it."""
    if isinstance(value, dict):
        for own in [name for name in value if name in LIMITS and isinstance(value[name], int | float)]:
            value[LIMITS[own]] = value.pop(own)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _name_limits(inner)


def _without_null(schema: Json) -> Json:
    """Return the schema of a parameter, which can be left out but not be null."""
    kinds = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return schema if not kinds else rest | kinds[0] if len(kinds) == 1 else rest | {"anyOf": kinds}
