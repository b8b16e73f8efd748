"""Codes that open a session once: what a link for another browser holds, in place of the token."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

LASTS_S = 600.0
MOST = 20  # codes at once; the oldest goes


class OneTimeCodes:
    """Makes codes and takes each back once, within `LASTS_S` by the monotonic `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._made: dict[str, float] = {}

    def new(self) -> str:
        """Return a new code of 128 random bits, fit for a URL."""
        code = secrets.token_urlsafe(16)
        with self._lock:
            self._made = dict([*self._made.items(), (code, self._clock())][-MOST:])
        return code

    def use(self, code: str) -> bool:
        """Return whether the code was made and not used since."""
        with self._lock:
            made = self._made.pop(code, None)
        return made is not None and self._clock() - made < LASTS_S

    def clear(self) -> None:
        """Forget every code."""
        with self._lock:
            self._made.clear()
