"""Requests first: the worker stands still while a reply is generated, and for a moment after."""

from __future__ import annotations

import threading

from service.worker_process import WorkerProcess

HOLDER = "requests"


class Courtesy:
    """Holds `worker` while the engine is busy and until it has been idle for `idle_s`. Quick; never raises."""

    def __init__(self, worker: WorkerProcess, idle_s: float) -> None:
        self._worker, self._idle_s = worker, idle_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, busy: bool) -> None:
        """The engine has become busy, or idle."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
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
