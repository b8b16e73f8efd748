"""Settings, of which texts are told only where they are one of this program's own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.settings.load import CHANGED, SYSTEM_FILE, Layer, Settings, default_data_dir, origin_of
from service.settings.server import is_loopback

CRON = re.compile(r"(?:[\d*/,-]{1,30} ){4}[\d*/,-]{1,30}")
SET = "set, not shown"
ORIGINS = {CHANGED, "the environment", "the command line", str(SYSTEM_FILE)}


def settings_told(settings: Settings, layers: Sequence[Layer]) -> dict[str, Any]:
    """Return each setting that is not the default with its value, or in place of a text that it is set, and by what."""
    words, schema = set(_words(Settings.model_json_schema())), Settings.model_fields
    told: dict[str, Any] = {"data_dir": {"is_default": settings.data_dir == default_data_dir()}}
    for name in schema.keys() - {"data_dir"}:
        default, values = schema[name].default, settings.model_dump(include={name})[name]
        for key, value in values.items():
            if value != getattr(default, key):
                origin = origin_of((name, key), layers)
                shown = {"value": _shown(f"{name}.{key}", value, words)}
                told[f"{name}.{key}"] = shown | {"by": origin if origin in ORIGINS else "a configuration file"}
    return dict(sorted(told.items()))


def _shown(key: str, value: Any, words: set[str]) -> Any:
    if value is None or type(value) in (int, float, bool) or (isinstance(value, str) and value in words):
        return value
    if isinstance(value, list | tuple | Mapping):
        return f"{SET}: {len(value)}"
    if key == "schedule.cron" and CRON.fullmatch(str(value)):
        return value
    return _reach(str(value)) if key == "server.host" else SET


def _reach(host: str) -> str:
    """Return who can reach a daemon that listens on `host`."""
    if is_loopback(host):
        return "this device"
    try:
        return "every network" if ipaddress.ip_address(host.strip("[]")).is_unspecified else "one network"
    except ValueError:
        return SET


def _words(schema: Any) -> Iterator[str]:
    """Yield the words that a setting can be one of."""
    if isinstance(schema, Mapping):
        yield from (word for word in schema.get("enum", ()) if isinstance(word, str))
        for part in schema.values():
            yield from _words(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _words(part)
