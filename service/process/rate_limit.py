"""A limit on requests by address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE_S = 60.0
MOST_ADDRESSES = 4096  # remembered; the one that was quiet longest is forgotten


class RateLimit:
    """Allows each address so many requests in a minute, which may come all at once; 0 for any number.

    It is the generic cell rate algorithm: of each address one time is kept, at which all that it asked for would have
    come one by one. Used by one event loop; `clock` is monotonic, in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._due: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Count a request, and return 0; or else after how many seconds the next one is allowed, at least 1."""
        if not self._per_minute:
            return 0
        now = self._clock()
        due = max(now, self._due.pop(address, now))
        wait_s = due + MINUTE_S / self._per_minute - MINUTE_S - now
        if wait_s <= 1e-6:
            due += MINUTE_S / self._per_minute
        self._due[address] = due
        if len(self._due) > MOST_ADDRESSES:
            self._due.popitem(last=False)
        return 0 if wait_s <= 1e-6 else max(1, math.ceil(wait_s))

    def __len__(self) -> int:
        return len(self._due)
