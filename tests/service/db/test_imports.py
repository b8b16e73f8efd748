"""Imports: all or none, in batches that keep nobody waiting, and nothing is seen before the last one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from lars_agent.errors import DiskFull
from service.db import Database
from service.db.engine import reading
from service.db.records import ImportProgress, NewFeedback

ROW = NewFeedback(messages=({"role": "user", "content": "Where is my hat?"},), response="?", correction="Here.")
DIES = """
import os, signal, sys
from pathlib import Path
from service.db import Database
from tests.service.db.test_imports import rows

def batches():
    yield rows(3)
    os.kill(os.getpid(), signal.SIGKILL)

Database(Path(sys.argv[1])).imports.store(batches(), 6)
"""


def rows(count: int, **values) -> list[NewFeedback]:
    return [replace(ROW, correction=f"In box {number}.", **values) for number in range(count)]


def everything(db) -> dict[str, object]:
    """What each way to read the feedback gives."""
    listed = db.feedback.list()
    return {
        "list": [record.correction for record in listed],
        "count": (db.feedback.count(), db.feedback.count(profile="default", q="box"), db.feedback.counts()["total"]),
        "each": len(list(db.feedback.each())),
        "examples": len(db.feedback.examples("default")),
        "known": len(db.feedback.known([record.id for record in listed])),
        "extent": db.feedback.extent()[0],
        "profiles": db.feedback.profiles(),
        "lessons": db.feedback.lessons(),
        "recalled": [one.answer for one in db.recall.search("default", "Where is my hat?", 3).corrections],
    }


def stored(db) -> int:
    """The rows that are in the file, to be seen or not."""
    with reading(db.engine) as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM feedback").scalar_one()


def test_nothing_is_seen_before_all_is_there_and_others_write_meanwhile(db):
    db.feedback.add(ROW)
    seen, progress = [], []

    def batches():
        for number in range(3):
            yield rows(2)
            seen.append(everything(db))
            progress.append(db.imports.progress)
            db.feedback.add(replace(ROW, rating=1.0, profile="bob", correction=f"{number}"))

    before = everything(db)
    assert db.imports.store(batches(), 6) == 6
    assert seen[0] == before
    assert [(one["extent"], one["examples"], one["recalled"]) for one in seen] == [
        (1 + others, 1, ["Here."]) for others in range(3)
    ]
    assert progress == [ImportProgress(done, 6) for done in (2, 4, 6)]
    assert db.imports.progress is None
    after = everything(db)
    assert (after["count"], after["examples"], after["recalled"]) == ((10, 6, 10), 7, ["In box 1."])
    assert after["lessons"] == {"default": 7, "bob": 3}


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), DiskFull("no room")])
def test_an_import_that_fails_leaves_nothing(db, error):
    def batches():
        yield rows(700)
        raise error

    with pytest.raises(type(error)):
        db.imports.store(batches(), 1000)
    assert stored(db) == 0
    assert db.imports.store([rows(2)], 2) == 2
    assert db.feedback.count() == 2


def test_an_import_that_is_killed_is_never_seen_and_is_removed(path):
    Database(path).close()
    done = subprocess.run([sys.executable, "-c", DIES, str(path)], check=False, env=os.environ | {"LC_ALL": "C"})
    assert done.returncode == -signal.SIGKILL
    db = Database(path)
    assert (stored(db), db.feedback.count(), everything(db)["recalled"]) == (3, 0, [])
    db.feedback.add(ROW)
    assert db.imports.remove_unfinished() == 3
    assert (stored(db), db.feedback.count()) == (1, 1)
    assert db.imports.remove_unfinished() == 0
    db.close()


def test_rows_that_come_later_are_newer_and_a_running_import_is_left_alone(db):
    def batches():
        yield rows(1)
        db.feedback.add(ROW)
        assert db.imports.remove_unfinished() == 0
        yield rows(1)

    db.imports.store(batches(), 2)
    assert [record.correction for record in db.feedback.list()] == ["Here.", "In box 0.", "In box 0."]
    assert [one.answer for one in db.recall.search("default", "Where is my hat?", 1).corrections] == ["Here."]


def test_what_is_imported_can_be_changed_and_deleted(db):
    db.imports.store([rows(2)], 2)
    newest, oldest = db.feedback.list()
    assert db.feedback.edit(oldest.id, correction="Gone.").correction == "Gone."
    db.erasures.feedback(newest.id)
    assert [record.correction for record in db.feedback.list()] == ["Gone."]
