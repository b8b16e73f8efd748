"""Rules that say what of a value may be told. All that no rule names is left out.

A rule returns the value, or a harmless form of it, or LEFT_OUT. A person's words pass no rule: numbers are numbers,
times are read and written anew, and a word is told only if it is one of this program's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from typing import Any, get_args

LEFT_OUT: Any = object()
Rule = Callable[[Any], Any]


def number(value: Any) -> Any:
    """Tell a number, true, false, or that there is none."""
    return value if value is None or type(value) in (int, float, bool) else LEFT_OUT


def moment(value: Any) -> Any:
    """Tell a time, to the second."""
    if value is None:
        return None
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return time.astimezone(UTC).isoformat(timespec="seconds")
    except (TypeError, ValueError, OverflowError):
        return LEFT_OUT


def count(value: Any) -> Any:
    """Tell how many items a list or an object has."""
    return len(value) if isinstance(value, list | tuple | Mapping) else LEFT_OUT


def one_of(words: Iterable[str]) -> Rule:
    """Tell a text that is one of these words."""
    known = frozenset(words)
    return lambda value: value if isinstance(value, str) and value in known else LEFT_OUT


def each(rule: Rule) -> Rule:
    """Tell of each item of a list what `rule` tells of it."""

    def told(values: Any) -> Any:
        found = map(rule, values) if isinstance(values, list | tuple) else ()
        return [one for one in found if one is not LEFT_OUT]

    return told


def keys(**rules: Rule) -> Rule:
    """Tell of an object the keys that have a rule here, by their rules."""

    def told(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return LEFT_OUT
        found = {key: rule(values[key]) for key, rule in rules.items() if key in values}
        return {key: value for key, value in found.items() if value is not LEFT_OUT}

    return told


def numbers(*names: str) -> Rule:
    """Tell of an object the numbers under these keys."""
    return keys(**dict.fromkeys(names, number))


def fields_of(record: type[Any]) -> tuple[str, ...]:
    """Return the names of a record's fields."""
    return tuple(field.name for field in dataclass_fields(record))


def literals(*kinds: Any) -> set[str]:
    """Return all words of types such as `Literal["a", "b"] | Literal["c"]`."""
    found: set[str] = set()
    for kind in kinds:
        for part in get_args(kind):
            found |= {part} if isinstance(part, str) else literals(part)
    return found
