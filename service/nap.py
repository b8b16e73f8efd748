"""When nothing has been asked for long enough that the model is unloaded."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

AGAIN_S = 0.2  # until what was not to be disturbed is looked at again


class Nap:
    """Calls `then` when nothing has been heard for `after_s` seconds; infinity is never."""

    def __init__(self, after_s: float, then: Callable[[], None]) -> None:
        self._after_s, self._then = after_s, then
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._ends = math.inf
        self._busy = self._closed = False

    @property
    def ends(self) -> float:
        """When `then` will be called, seconds since the epoch, if nothing is heard until then."""
        return time.time() + self._after_s if self._busy else self._ends

    def begin(self, after_s: float | None = None) -> None:
        """The time runs, from now, unless it stands still: `after_s`, or None for as long as the last time."""
        with self._lock:
            if after_s is not None:
                self._after_s = after_s
            self._start(self._after_s)

    def again(self) -> None:
        """`then` is called again in a moment: it could not do what it does."""
        with self._lock:
            self._start(max(AGAIN_S, self._after_s))

    def stand_still(self, still: bool) -> None:
        """Whether the time stands still; it runs from now on if not."""
        with self._lock:
            self._busy = still
            self._start(self._after_s)

    def close(self) -> None:
        """The time never runs again."""
        with self._lock:
            self._closed = True
            self._stop()

    def _start(self, after_s: float) -> None:
        self._stop()
        if self._busy or self._closed or math.isinf(after_s):
            return
        self._ends = time.time() + after_s
        self._timer = timer = threading.Timer(after_s, lambda: self._fire(timer))
        timer.daemon = True
        timer.start()

    def _stop(self) -> None:
        self._ends = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self, timer: threading.Timer) -> None:
        with self._lock:
            if self._timer is not timer:  # something was heard while this timer waited for the lock
                return
            self._timer = None
        self._then()
