"""A timer that is restarted by activity and stands still during it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class IdleTimer:
    """Calls `then`, in a thread of its own, after `after_s` idle seconds; never if that is infinite.

    Attributes:
        after_s: the time that the next start waits.
        ends: when `then` will be called, in seconds since the epoch; while busy, as if that ended now.
    """

    def __init__(self, after_s: float, then: Callable[[], None]) -> None:
        self.after_s, self._then = after_s, then
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._ends = math.inf
        self._busy = self._closed = False

    @property
    def ends(self) -> float:
        """See the class."""
        return time.time() + self.after_s if self._busy else self._ends

    def restart(self, after_s: float | None = None) -> None:
        """Start again from now, once not busy: with `after_s`, or None for the time of the last start."""
        with self._lock:
            if after_s is not None:
                self.after_s = after_s
            self._start()

    def set_busy(self, busy: bool) -> None:
        """Stop while busy, and start again afterwards."""
        with self._lock:
            self._busy = busy
            self._start()

    def close(self) -> None:
        """Stop for good."""
        with self._lock:
            self._closed = True
            self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._ends = None, math.inf
        if self._busy or self._closed or math.isinf(self.after_s):
            return
        self._ends = time.time() + self.after_s
        self._timer = timer = threading.Timer(self.after_s, lambda: self._fire(timer))
        timer.daemon = True
        timer.start()

    def _fire(self, timer: threading.Timer) -> None:
        with self._lock:
            if self._timer is not timer:  # it was restarted while this timer waited for the lock
                return
            self._timer = None
        self._then()
