"""A daemon that dies in the middle of an erasure: its successor goes on."""

from __future__ import annotations

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.training.job_directory import CANDIDATE, TRAIN_FILE, write_examples
from service.housekeeping import jobs
from service.housekeeping.eraser import Eraser
from service.housekeeping.housekeeper import Housekeeper
from tests.service.house import House
from tests.service.housekeeping.test_housekeeper import add_job, examples


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    yield house
    house.close()


def test_what_the_rows_alone_were_deleted_of_is_gone_after_the_next_start(house):
    kept, gone = house.correct(2)
    innocent, affected = house.publish(learned=[kept]), house.publish(learned=[kept, gone])
    folder = house.folder(add_job(house).id)
    write_examples(folder / TRAIN_FILE, examples(kept, gone))
    (folder / CANDIDATE).mkdir()
    erasure = house.db.erasures.feedback(gone)
    assert set(erasure.stages) == {"rows"}
    keeper = Housekeeper(house.settings, house.db, house.store, house.switch, BackgroundScheduler())
    eraser = Eraser(house.context, house.supervisor(), keeper)
    eraser.resume()
    assert house.store.active("default") == house.engine.serving("default") == innocent
    assert [found.version for found in house.store.versions("default")] == [innocent]
    assert set(house.db.erasures.get(erasure.id).stages) == {"rows", "recall", "wordings", "served_version", "caches"}
    keeper.forget()
    assert house.db.erasures.pending() == []
    assert house.db.erasures.get(erasure.id).versions == {"default": [affected]}
    assert not (folder / CANDIDATE).exists()
    assert gone not in (folder / TRAIN_FILE).read_text()
    keeper.close()
    before = house.db.erasures.get(erasure.id)
    eraser.resume()
    assert house.db.erasures.get(erasure.id) == before


def test_a_deletion_rewrites_and_weighs_only_what_has_it(house, monkeypatch):
    """A year has many jobs, and a busy day many deletions."""
    kept, gone = house.correct(2)
    folders = [house.folder(add_job(house).id) for _ in range(4)]
    for folder, names in zip(folders, ([kept], [kept, gone], [gone], [kept]), strict=True):
        write_examples(folder / TRAIN_FILE, examples(*names))
    read, strip = [], jobs.strip
    monkeypatch.setattr(jobs, "strip", lambda path, *others: read.append(path.parent) or strip(path, *others))
    house.db.erasures.feedback(gone)
    Housekeeper(house.settings, house.db, house.store, house.switch, BackgroundScheduler()).forget()
    assert sorted(read) == sorted(folders[1:3])
    assert [gone in (folder / TRAIN_FILE).read_text() for folder in folders] == [False] * 4


def test_what_is_deleted_while_an_earlier_deletion_is_carried_out_waits_for_its_own_round(house, monkeypatch):
    first, second = house.correct(2)
    folder = house.folder(add_job(house).id)
    write_examples(folder / TRAIN_FILE, examples(first, second))
    later, strip = [], jobs.strip

    def deleting(path, known, before):
        count = strip(path, known, before)
        later.append(later or house.db.erasures.feedback(second))
        return count

    monkeypatch.setattr(jobs, "strip", deleting)
    house.db.erasures.feedback(first)
    keeper = Housekeeper(house.settings, house.db, house.store, house.switch, BackgroundScheduler())
    keeper.forget()
    assert second in (folder / TRAIN_FILE).read_text()
    assert [one.id for one in house.db.erasures.pending("jobs", "checkpoints")] == [later[0].id]
    keeper.forget()
    assert second not in (folder / TRAIN_FILE).read_text()
    assert house.db.erasures.pending("jobs", "checkpoints") == []
