"""Requests first: the worker stands still while a reply is generated, and for a moment after."""

from __future__ import annotations

import math
import threading
import time

from service.worker_process import WorkerProcess

HOLDER = "requests"


class Courtesy:
    """Holds `worker` while the engine is busy and until it has been idle for `idle_s`. Quick; never raises."""

    def __init__(self, worker: WorkerProcess, idle_s: float) -> None:
        self._worker, self._idle_s = worker, idle_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._quiet_since = -math.inf  # by time.monotonic; infinity while the engine is busy

    def use(self, idle_s: float) -> None:
        """The worker goes on `idle_s` after the next reply."""
        self._idle_s = idle_s

    def quiet_s(self) -> float:
        """Seconds since the last reply; 0 while one is made, infinity where there was none."""
        return max(0.0, time.monotonic() - self._quiet_since)

    def __call__(self, busy: bool) -> None:
        """The engine has become busy, or idle."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._quiet_since = math.inf if busy else time.monotonic()
            if busy:
                self._worker.hold(HOLDER)
            else:
                self._timer = timer = threading.Timer(self._idle_s, lambda: self._release(timer))
                timer.daemon = True
                timer.start()

    def _release(self, timer: threading.Timer) -> None:
        with self._lock:
            if self._timer is timer:  # else a request came while this timer was waiting for the lock
                self._timer = None
                self._worker.release(HOLDER)

    def close(self) -> None:
        """No timer is left."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
