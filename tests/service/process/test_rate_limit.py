from __future__ import annotations

import pytest

from service.process.rate_limit import MOST_ADDRESSES, RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("per_minute", [1, 3, 7, 60, 300])
def test_so_many_at_once_and_then_one_by_one(per_minute):
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    assert [limit.wait_s("a") for _ in range(per_minute)] == [0] * per_minute
    wait_s = limit.wait_s("a")
    assert 0 <= wait_s - 60 / per_minute < 1
    assert limit.wait_s("b") == 0
    clock.now += wait_s
    assert limit.wait_s("a") == 0
    clock.now += 60
    assert [limit.wait_s("a") for _ in range(per_minute + 1)].count(0) == per_minute


def test_none_is_no_limit_and_addresses_are_forgotten():
    limit = RateLimit(0)
    assert {limit.wait_s("a") for _ in range(1000)} == {0}
    limit = RateLimit(1)
    for number in range(MOST_ADDRESSES + 10):
        assert limit.wait_s(str(number)) == 0
    assert len(limit) == MOST_ADDRESSES
