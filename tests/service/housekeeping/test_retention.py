"""Items to remove: never protected ones, no more than necessary, and none because of a wrong clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.housekeeping.retention import Item, Limits, expired

NOW = datetime(2026, 6, 1, tzinfo=UTC)

ages = st.floats(-400, 400, allow_nan=False).map(lambda days: NOW - timedelta(days=days))
sizes = st.integers(0, 1000)
limits = st.builds(Limits, days=st.integers(0, 200), bytes=st.integers(0, 3000))


@st.composite
def collections(draw, created=ages):
    facts = draw(st.lists(st.tuples(created, sizes, st.booleans()), max_size=12))
    return [Item(number, *fact) for number, fact in enumerate(facts)]


def split(items, limits, now=NOW):
    gone = expired(items, limits, now)
    by_id = {item.id: item for item in items}
    return [by_id.pop(name) for name in gone], list(by_id.values())


@given(collections(), limits)
def test_protected_items_stay_and_no_item_goes_twice(items, limits):
    gone, kept = split(items, limits)
    assert not any(item.protected for item in gone)
    assert len(gone) + len(kept) == len(items)


@given(collections(), limits)
def test_what_stays_keeps_to_both_limits_or_is_protected(items, limits):
    _, kept = split(items, limits)
    free = [item for item in kept if not item.protected]
    if limits.days:
        assert all(NOW - item.created <= timedelta(days=limits.days) for item in free)
    if limits.bytes and free:
        assert sum(item.bytes for item in kept) <= limits.bytes


@given(collections(), limits)
def test_no_item_is_removed_needlessly(items, limits):
    gone, kept = split(items, limits)
    young = [item for item in gone if not limits.days or NOW - item.created <= timedelta(days=limits.days)]
    if young:
        assert sum(item.bytes for item in kept) + young[-1].bytes > limits.bytes > 0


@given(collections(), limits)
def test_the_oldest_go_first(items, limits):
    gone, kept = split(items, limits)
    ages = [min(item.created, NOW) for item in gone]
    assert ages == sorted(ages)
    assert all(item.protected or min(item.created, NOW) >= ages[-1] for item in kept if ages)


@given(collections(), limits)
def test_second_sweep_removes_nothing(items, limits):
    _, kept = split(items, limits)
    assert expired(kept, limits, NOW) == []


@given(collections())
def test_without_limits_everything_stays(items):
    assert expired(items, Limits(), NOW) == []


@given(collections(), limits)
def test_clock_set_back_removes_only_what_is_above_the_byte_limit(items, limits):
    """All items are from the future then: they go in the order given, and only until the rest fits."""
    before_all = NOW - timedelta(days=401)
    assert expired(items, Limits(days=limits.days), before_all) == []
    gone, kept = split(items, limits, before_all)
    assert [item.id for item in gone] == sorted(item.id for item in gone)
    if gone:
        assert sum(item.bytes for item in kept) + gone[-1].bytes > limits.bytes > 0


def test_items_of_a_clock_that_ran_ahead_do_not_push_each_other_out_by_their_dates():
    ahead = [Item(name, NOW + timedelta(days=days), 10) for name, days in (("first", 900), ("second", 30))]
    assert expired([*ahead, Item("now", NOW, 10)], Limits(bytes=20), NOW) == ["first"]


def test_too_old_is_older_than_the_limit_to_the_day():
    items = [Item(days, NOW - timedelta(days=days), 1) for days in (29, 30, 31)]
    assert expired(items, Limits(days=30), NOW) == [31]
