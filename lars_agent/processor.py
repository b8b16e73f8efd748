"""The cores that this process may use, and what other processes take of them."""

from __future__ import annotations

import os
import time

import psutil

BUSY = ("user", "system", "steal")  # of psutil's times; "nice" is that of programs with a lower priority
LOOK_S = 0.25  # between two measurements; the kernel counts in hundredths of a second


def core_count() -> int:
    """Return the number of cores that this process may use; in a container those that it was given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OtherLoad:
    """Processor time of other processes; of those with a lower priority too, unless `urgent_only`."""

    def __init__(self, *, urgent_only: bool = False) -> None:
        has_priority = os.getpriority(os.PRIO_PROCESS, 0) <= 0
        self._names = BUSY if urgent_only and has_priority else (*BUSY, "nice")
        self._at, self._others_s = time.monotonic(), self._read()

    def cores(self) -> float:
        """Return the average number of cores that they kept busy since construction or the last call."""
        at, others_s = self._at, self._others_s
        self._at, self._others_s = time.monotonic(), self._read()
        return max(0.0, self._others_s - others_s) / max(1e-3, self._at - at)

    @property
    def is_due(self) -> bool:
        """True if the last measurement is old."""
        return time.monotonic() - self._at >= LOOK_S

    def _read(self) -> float:
        times = psutil.cpu_times()
        return float(sum(getattr(times, name, 0.0) for name in self._names)) - time.process_time()


class FreeCores:
    """The number of cores that other processes leave to this one, at least 1; measured when called, now and then."""

    def __init__(self) -> None:
        self._load, self._free = OtherLoad(urgent_only=True), core_count()

    def __call__(self) -> int:
        """Return that number."""
        if self._load.is_due:
            left = round((os.cpu_count() or 1) - self._load.cores())
            self._free = max(1, min(core_count(), left))
        return self._free
