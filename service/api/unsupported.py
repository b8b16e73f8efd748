"""Fields of a dialect that have no effect here, and those that are accepted only with a value that turns them off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from service.api.fields import is_one_of

Off = Mapping[str, Sequence[Any]]  # by the name of a field the values that turn it off


def without_unsupported(values: Any, free: Collection[str], off: Off) -> Any:
    """Return a request but for the fields without effect (`free`), and those with a value that turns them `off`."""
    if not isinstance(values, Mapping):
        return values
    return {
        key: value
        for key, value in values.items()
        if key not in free and not (key in off and is_one_of(value, off[key]))
    }


def describe_unsupported(schema: dict[str, Any], free: Collection[str], off: Off) -> None:
    """Describe such fields in the schema of a request; its own fields of these names stay as they are."""
    without_effect = {name: {"description": "Accepted without effect."} for name in sorted(free)}
    not_supported = {name: {"enum": [*values], "description": "Not supported."} for name, values in off.items()}
    schema["properties"] = {**without_effect, **not_supported, **schema["properties"]}
