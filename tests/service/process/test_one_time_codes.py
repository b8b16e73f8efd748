"""Codes that open a session once."""

from __future__ import annotations

from service.process.one_time_codes import LASTS_S, MOST, OneTimeCodes


def test_a_code_is_used_once_and_soon():
    now = [0.0]
    codes = OneTimeCodes(lambda: now[0])
    first, late = codes.new(), codes.new()
    assert first != late
    assert [codes.use(one) for one in (first, first, "", "made up")] == [True, False, False, False]
    now[0] = LASTS_S
    assert not codes.use(late)


def test_the_oldest_of_too_many_codes_goes():
    codes = OneTimeCodes()
    made = [codes.new() for _ in range(MOST + 1)]
    assert [codes.use(one) for one in (made[0], made[1])] == [False, True]
