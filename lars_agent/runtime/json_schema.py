"""JSON schemas that clients send: their bounds, which are checked wherever one comes in. No torch, no llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_CHARS, MAX_DEPTH = 65_536, 64
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return the schema as JSON. Raises ValueError for one that is too large or too deep, or is not JSON."""
    if depth(schema) > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep")
    text = json.dumps(schema, allow_nan=False)
    if len(text) > MAX_CHARS:
        raise ValueError(f"has {len(text):,} characters; give at most {MAX_CHARS:,}")
    return text


def schema_from(text: str) -> dict[str, Any]:
    """Return the inverse of `schema_text`, with its errors."""
    try:
        schema = json.loads(text)
    except RecursionError:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep") from None
    if not isinstance(schema, dict):
        raise ValueError("must be an object")
    schema_text(schema)
    return schema


def depth(value: Any) -> int:
    """Return how deep a JSON value is nested, without recursion."""
    level, count = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        count += 1
    return count
