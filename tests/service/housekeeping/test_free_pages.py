"""Deleted text in the database's log and pages, searched for as bytes."""

from __future__ import annotations

import random
import threading
from datetime import UTC, timedelta

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from service.db.engine import reading
from service.db.records import NewFeedback, now_utc
from service.housekeeping import free_pages, housekeeper
from service.housekeeping.eraser import Eraser
from service.housekeeping.housekeeper import Housekeeper
from tests.service.house import House, until

SEED_WITH_A_COPY = 3  # with these rows SQLite leaves a deleted one in the unused room of a page


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    yield house
    house.close()


def keeper_of(house: House, **options) -> Housekeeper:
    return Housekeeper(
        house.settings, house.db, house.store, house.switch, BackgroundScheduler(timezone=UTC), **options
    )


def add(house: House, *corrections: str) -> list[str]:
    news = [
        NewFeedback(messages=({"role": "user", "content": text},), response="r", correction=text)
        for text in corrections
    ]
    return [house.db.feedback.add(new)[0].id for new in news]


def traces(house: House, *texts: str) -> list[str]:
    """Those of the texts that the database's files hold."""
    content = b"".join(path.read_bytes() for path in house.settings.data_dir.glob("lars-agent.db*"))
    return [one for one in texts if one.encode() in content or one.encode("utf-16-le") in content]


def delete_many(house: House) -> list[str]:
    """Store, change and delete rows of all sizes; return the words of the deleted ones."""
    rng, known, gone = random.Random(SEED_WITH_A_COPY), {}, []
    for _ in range(4):
        words = [f"M{len(known) + len(gone) + number:06d}Q" for number in range(1, 41)]
        news = [
            NewFeedback(
                messages=({"role": "user", "content": word * rng.randrange(1, 8)},),
                response="r",
                correction=word * rng.randrange(1, 8),
                profile="default",
            )
            for word in words
        ]
        house.db.imports.store([news], len(news))
        known |= {record.correction[:8]: record.id for record in house.db.feedback.list(limit=len(news))}
        for word in rng.sample(sorted(known), 6):
            house.db.feedback.edit(known[word], comment="z" * rng.randrange(1, 400))
        dropped = rng.sample(sorted(known), 25)
        house.db.erasures.matching(id=[known.pop(word) for word in dropped])
        gone += dropped
    return gone


def test_copies_that_overwriting_leaves_are_gone_once_the_file_is_written_anew(house):
    gone = delete_many(house)
    assert house.db.empty_log()
    assert traces(house, *gone), "the control: nothing was left to be removed"
    keeper_of(house).forget()
    assert traces(house, *gone) == []
    assert house.db.erasures.pending("free_pages") == []


def test_a_deletion_leaves_the_log_at_once(house):
    _, gone = add(house, "Kept Ostrander", "Zyxolotl Quendorp")
    keeper = keeper_of(house)
    Eraser(house.context, house.supervisor(), keeper).carry_out(house.db.erasures.feedback(gone))
    assert (traces(house, "Zyxolotl Quendorp"), traces(house, "Kept Ostrander")) == ([], ["Kept Ostrander"])


def test_what_a_reader_keeps_goes_when_it_has_ended(house, monkeypatch):
    monkeypatch.setattr(housekeeper, "RETRY_S", 0.01)
    monkeypatch.setattr(housekeeper, "LONGEST_RETRY_S", 0.05)
    (gone,) = add(house, "Zyxolotl Quendorp")
    keeper = keeper_of(house)
    may_end, began = threading.Event(), threading.Event()

    def read() -> None:
        with reading(house.db.engine) as connection:
            connection.exec_driver_sql("SELECT * FROM feedback").fetchone()
            began.set()
            may_end.wait(60)

    (reader := threading.Thread(target=read)).start()
    began.wait(60)
    Eraser(house.context, house.supervisor(), keeper).carry_out(house.db.erasures.feedback(gone))
    keeper._periodic.start()
    until(lambda: keeper._retry_s > housekeeper.RETRY_S, "a round in vain")
    assert "free_pages" not in house.db.erasures.list()[0].stages
    may_end.set()
    reader.join()
    until(lambda: house.db.erasures.pending() == [], "the erasure is complete")
    assert traces(house, "Zyxolotl Quendorp") == []
    keeper._periodic.shutdown()
    keeper.close()


def test_a_large_file_waits_for_an_idle_device_a_day_at_most(house, monkeypatch):
    monkeypatch.setattr(free_pages, "SMALL_BYTES", 0)
    (gone,) = add(house, "Zyxolotl Quendorp")
    house.db.erasures.feedback(gone)
    for options, is_done in (
        ({"is_idle": lambda: False}, False),
        ({"is_idle": lambda: False, "now": lambda: now_utc() + timedelta(hours=23)}, False),
        ({"is_idle": lambda: False, "now": lambda: now_utc() + timedelta(hours=25)}, True),
    ):
        keeper_of(house, **options).forget()
        assert (house.db.erasures.pending("free_pages") == []) == is_done
    (also_gone,) = add(house, "Also gone")
    house.db.erasures.feedback(also_gone)
    keeper_of(house, is_idle=lambda: True).forget()
    assert house.db.erasures.pending("free_pages") == []


def test_a_round_gives_back_what_has_become_free(house):
    ids = add(house, *("x" * 5000 for _ in range(40)))
    size_bytes, _ = house.db.page_bytes()
    house.db.erasures.matching(id=ids)
    keeper_of(house).tidy()
    assert house.db.page_bytes()[0] < size_bytes / 2
    assert house.db.page_bytes()[1] == 0
