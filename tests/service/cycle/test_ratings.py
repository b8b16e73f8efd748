"""A version that people rate worse than its parent is rolled back."""

from __future__ import annotations

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from service.cycle.ratings import Ratings, RatingsWatch, chance_of_worse
from service.db.interactions import new_interaction_id
from service.db.records import InteractionRecord, NewFeedback, now_utc
from tests.service.house import House, until


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    yield house
    house.close()


def rate(house: House, version: int | None, good: int = 0, bad: int = 0):
    """That many replies of the version were rated; the last feedback."""
    for number in range(good + bad):
        messages = ({"role": "user", "content": "Hi"},)
        new = InteractionRecord(
            new_interaction_id(), now_utc(), "default", messages, {}, "Yo", version, "eos_token", 1, 1, 0
        )
        house.db.interactions.add(new)
        correction = "Hello." if number % 2 else None
        said = {"rating": 1.0} if number < good else {"rating": -1.0, "correction": correction}
        record, _ = house.db.feedback.add(NewFeedback(interaction_id=new.id, **said))
    return record


@pytest.mark.parametrize(
    ("now", "before", "chance"),
    [
        (Ratings(), Ratings(), 1.0),
        (Ratings(0, 3), Ratings(), 1.0),
        (Ratings(9, 0), Ratings(0, 9), 1.0),
        (Ratings(1, 3), Ratings(3, 1), 17 / 70),  # Fisher's tea
        (Ratings(0, 5), Ratings(5, 0), 1 / 252),
    ],
)
def test_the_chance_is_that_of_fishers_exact_test(now, before, chance):
    assert chance_of_worse(now, before) == pytest.approx(chance)


def test_a_version_that_is_rated_significantly_worse_than_its_parent_is_rolled_back_and_the_alarm_says_so(house):
    parent, active = house.publish(), house.publish()
    watch = RatingsWatch(house.context, BackgroundScheduler())
    rate(house, parent, good=9, bad=1)
    for _ in range(3):
        rate(house, active, bad=1)
        assert not watch.roll_back_if_worse("default")
    rate(house, active, good=1, bad=4)
    assert watch.roll_back_if_worse("default")
    assert house.store.active("default") == house.engine.serving("default") == parent
    (alarm,) = house.switch.problems
    assert (alarm.code, alarm.profile) == ("adapter_rolled_back", "default")
    assert "of 8 rated replies of v2 7 were disliked or corrected, of 10 of v1 1" in alarm.message
    assert not watch.roll_back_if_worse("default")
    house.switch.activate("default", active)
    assert house.switch.problems == []
    assert not watch.roll_back_if_worse("default")


def test_neither_the_base_model_nor_a_version_without_ratings_is_rolled_back(house):
    watch = RatingsWatch(house.context, BackgroundScheduler())
    assert not watch.roll_back_if_worse("default")
    house.publish()
    rate(house, None, good=9)
    assert not watch.roll_back_if_worse("default")


def test_a_disliked_reply_has_the_ratings_looked_at(house):
    version = house.publish()
    rate(house, None, good=9)
    last = rate(house, version, bad=9)
    periodic = BackgroundScheduler()
    watch = RatingsWatch(house.context, periodic)
    watch.note(rate(house, version, good=1))
    assert periodic.get_jobs() == []
    watch.note(last)
    periodic.start()
    until(lambda: house.store.active("default") is None, "the base model is in use again")
    until(lambda: not periodic.get_jobs(), "the job has ended")
    periodic.shutdown()
