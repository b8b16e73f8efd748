"""Schemathesis's hook for bodies of JSON lines, loaded by its own process."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/jsonl")
def to_lines(context: Any, value: Any) -> bytes:
    """A text as it is, a list as a line for each item, anything else as one line."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return "".join(json.dumps(one) + "\n" for one in (value if isinstance(value, list) else [value])).encode()
