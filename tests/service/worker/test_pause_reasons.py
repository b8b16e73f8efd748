from __future__ import annotations

from service.worker.hang_check import HangCheck
from service.worker.pause_reasons import Pause, PauseReasons


def test_pauses_are_counted_by_reason_and_open_ones_up_to_now():
    reasons = PauseReasons()
    reasons.add("user", 10.0)
    reasons.add("user", 11.0)  # it has begun already
    reasons.add("heat", 12.0)
    assert (reasons.active, reasons.paused_s(15.0)) == ({"user", "heat"}, 5.0)
    reasons.remove("heat", 15.0)
    reasons.remove("disk", 15.0)  # it never began
    assert reasons.take(16.0) == {"heat": Pause(1, 3.0), "user": Pause(1, 6.0)}
    assert reasons.take(18.0) == {"user": Pause(1, 2.0)}


def test_reset_removes_the_users_pause_and_keeps_the_others():
    reasons = PauseReasons()
    reasons.add("user", 10.0)
    reasons.add("heat", 12.0)
    reasons.take(13.0)
    reasons.reset()
    assert (reasons.active, reasons.take(14.0)) == ({"heat"}, {"heat": Pause(1, 1.0)})
    reasons.remove("heat", 15.0)
    assert reasons.paused_s(20.0) == 0.0


def test_stalled_time_excludes_pauses_and_ends_with_a_sign_of_life():
    check = HangCheck(0.0)
    assert check.stalled_s((1,), paused=False, now=5.0) == 0.0  # the first sign
    assert check.stalled_s((1,), paused=False, now=9.0) == 4.0
    assert check.stalled_s((1,), paused=True, now=50.0) == 0.0
    assert check.stalled_s((1,), paused=False, now=52.0) == 2.0
    assert check.stalled_s((0,), paused=False, now=53.0) == 0.0  # a clock that was set back is a sign, too
