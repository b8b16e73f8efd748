"""The probes put together into what is seen at one moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.schedule import device as probes
from service.schedule.idle_policy import DeviceState, Window

PEOPLE_S = 10.0  # logind is asked no more often: that takes a process


class DeviceReader:
    """Looks at this device. `own` are the processes that are ours, `quiet_s` the time since the last reply, and
    `worker_threads` how many threads of our own run all the time just now; `folder` is where data is kept.
    """

    def __init__(
        self,
        folder: Path,
        own: Callable[[], Sequence[int]],
        quiet_s: Callable[[], float],
        worker_threads: Callable[[], int],
    ) -> None:
        self._folder, self._quiet_s, self._worker_threads = folder, quiet_s, worker_threads
        self._processor = probes.Processor(lambda: [os.getpid(), *own()])
        self._asked_at = -PEOPLE_S
        self._away_s: float | None = None

    def __call__(self, window: Window) -> DeviceState:
        """What is seen now."""
        others, busiest = self._processor.others()
        on_battery, charge = probes.battery()
        return DeviceState(
            window=window,
            request_age_s=self._quiet_s(),
            away_s=self._people(),
            others_cpu=others,
            busiest=busiest,
            load=self._processor.load(self._worker_threads()),
            on_battery=on_battery,
            battery=charge,
            celsius=probes.celsius(),
            throttled=probes.throttled(),
            available_bytes=probes.available_bytes(),
            memory_pressure=probes.memory_pressure(),
            free_disk_bytes=probes.free_disk_bytes(self._folder),
        )

    def _people(self) -> float | None:
        """As logind had it at most `PEOPLE_S` ago; somebody who is away stays so until it says otherwise."""
        now = time.monotonic()
        if now - self._asked_at >= PEOPLE_S:
            self._away_s, self._asked_at = probes.away_s(), now
        return self._away_s
