"""The number of threads that read a prompt and decode: what is fastest, of the cores that other programs leave.

A token is a few hundred small parallel sections, each of which ends with its slowest thread. One thread that waits for
a core which another program has holds up all of them: beside two busy programs on two cores, two threads make a small
part of the tokens that one makes (`python -m bench serve --parts contended`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from lars_agent.processor import FreeCores, core_count

TIMED = 5  # decode steps of each thread count; the step before them is the first after a change of threads


class ThreadPolicy:
    """Chooses up to `most` threads, 0 for every core, of those that `free` returns.

    A prompt takes all of them. A decode step takes fewer if fewer are faster: it waits for memory, which on small
    boards half of the cores use up. The fastest of 1, 2, 4, ... and `most` is found by timing the first steps of each
    batch size while no other program is busy.
    """

    def __init__(self, most: int = 0, free: Callable[[], int] | None = None) -> None:
        self.most = most or core_count()
        self._free = free or FreeCores()
        smaller = (2**power for power in range(self.most.bit_length()) if 2**power < self.most)
        self._counts = (self.most, *smaller)
        self._times: dict[int, dict[int, list[float]]] = {}  # seconds of steps by batch size and thread count
        self._fastest: dict[int, int] = {}  # thread count by batch size

    def for_prompt(self) -> int:
        """Return the number of threads for the next part of a prompt."""
        return min(self.most, self._free())

    def for_step(self, size: int) -> int:
        """Return the number of threads for the next decode step of a batch of `size` sequences."""
        free, fastest = self.for_prompt(), self._fastest.get(size)
        if fastest is not None:
            return min(free, fastest)
        return self._untimed(size) if free == self.most else free

    def record(self, size: int, count: int, seconds: float) -> None:
        """Record how long a decode step took that `for_step` gave `count` threads."""
        if size in self._fastest or count != self._untimed(size) or self.for_prompt() < self.most:
            return
        times = self._times[size]
        times[count].append(seconds)
        if all(len(taken) > TIMED for taken in times.values()):
            self._fastest[size] = min(times, key=lambda count: statistics.median(times[count][1:]))
            del self._times[size]

    def _untimed(self, size: int) -> int:
        """Return the thread count whose steps are timed next."""
        times = self._times.setdefault(size, {count: [] for count in self._counts})
        return next(count for count, taken in times.items() if len(taken) <= TIMED)
