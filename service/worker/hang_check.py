"""Decide if the worker makes progress."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable
from pathlib import Path


class HangCheck:
    """Measures the time without progress since `now`. Pure: what the worker has left, and the time, are passed in."""

    def __init__(self, now: float) -> None:
        self._signs: Hashable = None
        self._since = now

    def stalled_s(self, signs: Hashable, *, paused: bool, now: float) -> float:
        """Return for how long `signs` have been the same; the time `paused` is left out."""
        if signs != self._signs or paused:
            self._signs, self._since = signs, now
        return now - self._since


def signs_of_life(paths: Iterable[Path]) -> tuple[int, ...]:
    """Return another value whenever one of the files is written; a clock that is set back or forth is one such time."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(path.stat().st_mtime_ns)
    return tuple(found)
