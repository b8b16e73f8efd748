"""Uploaded files: their rows are nobody's until a profile takes them up, and are there once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.db.errors import FileNotFound
from service.db.records import FileRecord, new_id, now_utc
from tests.service.db.test_imports import everything, rows


def uploaded(db, count: int = 3, days: int = 1) -> str:
    now = now_utc()
    file = FileRecord(new_id("file", now), now, "boxes.jsonl", 100, expires=now + timedelta(days=days))
    assert db.imports.store([rows(count)], count, file=file) == count
    return file.id


def corrections(db) -> list[str]:
    return [record.correction for record in db.feedback.each("default")]


def test_an_uploaded_file_is_nobodys_until_it_is_taken_up(db):
    before = everything(db)
    file = uploaded(db)
    assert everything(db) == before
    assert db.files.take_up(file, "alice") == 3
    assert (db.feedback.profiles(), db.feedback.count(file=file)) == (["alice"], 3)
    assert (db.files.get(file).profile, db.files.get(file).expires) == ("alice", None)
    assert db.files.take_up(file, "alice") == 0
    assert [one.answer for one in db.recall.search("alice", "Where is my hat?", 3).corrections] == ["In box 2."]


def test_rows_that_the_profile_has_wait_until_it_has_them_no_longer(db):
    first, second = uploaded(db), uploaded(db, 4)
    assert (db.files.take_up(first, "default"), db.files.take_up(second, "default")) == (3, 1)
    assert len(corrections(db)) == 4
    db.erasures.file(first)
    assert corrections(db) == ["In box 3."]
    assert len(list(db.files.each(second))) == 4
    assert db.files.take_up(second, "default") == 3
    assert sorted(corrections(db)) == [f"In box {number}." for number in range(4)]


def test_what_was_taken_up_in_part_is_nobodys_and_can_be_anothers(db, monkeypatch):
    file = uploaded(db)
    give, calls = db.files._give, []

    def dies(profile, seqs):
        calls.append(give(profile, seqs))
        raise KeyboardInterrupt

    monkeypatch.setattr(db.files, "_give", dies)
    with pytest.raises(KeyboardInterrupt):
        db.files.take_up(file, "alice")
    monkeypatch.undo()
    assert calls == [3]
    assert (db.feedback.count(), db.feedback.profiles()) == (0, [])
    assert (db.files.take_up(file, "bob"), db.feedback.profiles()) == (3, ["bob"])


def test_a_file_goes_with_its_last_row_or_when_its_time_is_over(db):
    used, unused, young = uploaded(db, 1), uploaded(db), uploaded(db, days=30)
    db.files.take_up(used, "default")
    assert db.files.remove_unused(now_utc() + timedelta(days=2)) == 1
    assert [file.id for file in db.files.list(9)] == [young, used]
    assert list(db.files.each(unused)) == []
    db.erasures.feedback(db.feedback.list()[0].id)
    assert [file.id for file in db.files.list(9)] == [young]
    for ask in (db.files.get, db.erasures.file, lambda file: db.files.take_up(file, "default")):
        with pytest.raises(FileNotFound):
            ask(used)
    erasure = db.erasures.file(young)
    assert (len(erasure.feedback), erasure.profiles) == (3, ())
    assert db.files.list(9) == []
