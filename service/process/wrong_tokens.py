"""Delays for addresses that send wrong tokens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable

from service.process.addresses import ip_of, network_of

FREE = 5  # wrong tokens of an address that are answered at once
FIRST_S, LONGEST_S = 0.25, 5.0  # the delay doubles with each further one
FORGOTTEN_S = 900.0  # without another one
MOST_WAITING = 8  # answers of one address that are held back at once
MOST_ADDRESSES = 4096  # remembered; the one that was quiet longest is forgotten


class WrongTokens:
    """Counts wrong tokens by address and holds back the answers to them; a right token is none of its business.

    So nobody is kept out by what another one sends from the same address. Used by one event loop; `clock` is monotonic,
    in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # number and time of the last
        self._waiting: Counter[str] = Counter()

    async def hold(self, host: str | None) -> bool:
        """Count a wrong token from `host` and wait; return False at once if too many of its answers are waiting."""
        address = network_of(ip_of(host))
        delay_s = self._count(address)
        if self._waiting[address] >= MOST_WAITING:
            return False
        if delay_s:
            self._waiting[address] += 1
            try:
                await self._sleep(delay_s)
            finally:
                self._waiting[address] -= 1
                self._waiting += Counter()  # keeps what is above 0
        return True

    def retry_after_s(self, host: str | None) -> int:
        """Return the delay of the next wrong token from `host`, whole seconds, at least 1."""
        count, _ = self._seen.get(network_of(ip_of(host)), (0, 0.0))
        return max(1, round(_delay_s(count + 1)))

    def __len__(self) -> int:
        return len(self._seen)

    def _count(self, address: str) -> float:
        """Return for how long the answer has to wait."""
        now = self._clock()
        count, last = self._seen.pop(address, (0, now))
        count = count + 1 if now - last < FORGOTTEN_S else 1
        self._seen[address] = count, now
        if len(self._seen) > MOST_ADDRESSES:
            self._seen.popitem(last=False)
        return _delay_s(count)


def _delay_s(count: int) -> float:
    """Return the delay of the answer to the wrong token number `count`."""
    return min(LONGEST_S, FIRST_S * 2.0 ** min(count - FREE - 1, 30)) if count > FREE else 0.0
