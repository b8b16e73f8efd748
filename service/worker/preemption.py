"""Requests first: the worker is paused while replies are generated, and for a moment after."""

from __future__ import annotations

import math
import threading
import time

from service.process.idle_timer import IdleTimer
from service.worker.process import WorkerProcess


class RequestPreemption:
    """Pauses `worker` while requests are answered, and until none has been for `resume_s`. Quick; never raises."""

    def __init__(self, worker: WorkerProcess, resume_s: float) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._timer = IdleTimer(resume_s, self._resume)
        self._quiet_since = -math.inf  # by time.monotonic; infinity while busy

    def use(self, resume_s: float) -> None:
        """Wait `resume_s` after the next reply."""
        self._timer.after_s = resume_s

    def quiet_s(self) -> float:
        """Return the seconds since the last reply; 0 while one is made, infinity where there was none."""
        return max(0.0, time.monotonic() - self._quiet_since)

    def set_busy(self, busy: bool) -> None:
        """Pause the worker, or start to wait."""
        with self._lock:
            self._quiet_since = math.inf if busy else time.monotonic()
            if busy:
                self._worker.pause("requests")
        self._timer.set_busy(busy)

    def close(self) -> None:
        """Leave no timer."""
        self._timer.close()

    def _resume(self) -> None:
        with self._lock:
            if not math.isinf(self._quiet_since):  # else a request came while the timer went off
                self._worker.resume("requests")
