"""Ollama's `keep_alive`: a number of seconds, or a duration as Go writes it."""

from __future__ import annotations

import math
import re

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
PIECE = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"
DURATION = re.compile(rf"(-?)((?:{PIECE})+)")
NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,9})?")
MAX_CHARS = 40


def keep_alive_s(value: str | float) -> float:
    """Seconds; infinity for a negative one, which means for good. Raises ValueError."""
    if isinstance(value, str):
        value = _seconds(value)
    if math.isnan(value):
        raise ValueError("not a duration")
    return math.inf if value < 0 else float(value)


def _seconds(text: str) -> float:
    if NUMBER.fullmatch(text):
        return float(text)
    found = DURATION.fullmatch(text) if len(text) <= MAX_CHARS else None
    if found is None:
        raise ValueError("not a duration; give seconds, or one such as 5m, 1h30m, 0 or -1")
    seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(PIECE, found[2]))
    return -seconds if found[1] else seconds
