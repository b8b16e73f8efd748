from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy import text

from lars_agent.errors import DiskFull
from service.db import Database
from service.db import engine as module
from service.db.engine import failures_named, reading, writing
from service.db.errors import DatabaseBusy, DatabaseUnusable
from service.db.records import NewFeedback
from tests.service.house import until

SAID = NewFeedback(messages=({"role": "user", "content": "Hi"},), response="Yo", rating=1.0)


def pragma(connection, name: str) -> object:
    return connection.execute(text(f"PRAGMA {name}")).scalar_one()


def test_every_pooled_connection_is_durable(db):
    with reading(db.engine) as first, reading(db.engine) as second:
        for connection in (first, second):
            assert pragma(connection, "synchronous") == 2  # FULL: a commit returns when it is on the disk
            assert pragma(connection, "journal_mode") == "wal"
            assert pragma(connection, "foreign_keys") == 1
            assert pragma(connection, "secure_delete") == 1
            assert pragma(connection, "busy_timeout") == 10_000


def test_only_the_owner_may_read_the_files(db, path):
    db.feedback.add(SAID)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "lars-agent.db-wal" in modes


def test_block_that_fails_is_undone(db):
    def write_and_fail() -> None:
        with writing(db.engine) as connection:
            connection.execute(text("INSERT INTO runs (profile, last_run) VALUES ('a', 'b')"))
            connection.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(DatabaseUnusable, match="no such table"):
        write_and_fail()
    assert db.scheduled_runs.last_run("a") is None


def test_reader_does_not_wait_for_the_writer(db):
    with writing(db.engine):
        assert db.feedback.list() == []


def test_writers_from_many_threads_all_come_through(db):
    threads = [threading.Thread(target=db.feedback.add, args=(SAID,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.feedback.counts()["total"] == 16


def test_lock_that_is_kept_too_long_is_named(path, monkeypatch):
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    db, other = Database(path), Database(path)
    with writing(other.engine), pytest.raises(DatabaseBusy, match="is another daemon running"):
        db.feedback.add(SAID)
    db.close()
    other.close()


def test_full_disk_is_named_and_nothing_is_stored(db):
    with writing(db.engine) as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pragma(connection, 'page_count')}"))
    large = NewFeedback(messages=SAID.messages, response="x" * 100_000, rating=1.0)
    with pytest.raises(DiskFull, match="no room on the disk for the database"):
        db.feedback.add(large)
    assert db.feedback.counts()["total"] == 0


@pytest.mark.parametrize("content", [b"not a database, but long enough to have a header" * 20, b"x"])
def test_file_that_is_no_database_is_refused_and_kept(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DatabaseUnusable, match="restore a backup or move it away"):
        Database(path)
    assert path.read_bytes() == content


def test_database_of_another_program_is_refused(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    with pytest.raises(DatabaseUnusable, match=r"another program.*recipes"):
        Database(path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE feedback SET response = CAST(x'ff41' AS TEXT)",
        "UPDATE feedback SET tags = '[\"a'",
        "UPDATE feedback SET messages = '[{\"role\": 1}]'",
        "UPDATE feedback SET messages = '7'",
        "UPDATE feedback SET created = '2026-1!-29T19:13:24.887767Z'",
        "UPDATE feedback SET created = 7",
        "ALTER TABLE feedback RENAME COLUMN comment TO commend",
        "DROP TABLE feedback",
    ],
    ids=["not UTF-8", "not JSON", "no content", "no messages", "no time", "a number", "another column", "no table"],
)
def test_rows_or_a_schema_that_make_no_sense_are_a_damaged_database(db, damage):
    db.feedback.add(SAID)
    with writing(db.engine) as connection:
        connection.execute(text(damage))
    with pytest.raises(DatabaseUnusable, match="restore a backup"):
        db.feedback.list()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC])
def test_disk_that_fails_or_is_at_its_quota_is_named(tmp_path, code):
    """SQLite says so whenever the system gives another reason than a full disk; here it is made to."""
    cause = sqlite3.OperationalError("disk I/O error")
    cause.sqlite_errorcode = code
    with pytest.raises(DatabaseUnusable, match="is it full, or failing"), failures_named(tmp_path / "lars-agent.db"):
        raise cause


def test_a_writer_that_comes_back_at_once_lets_those_who_waited_write_first(db):
    queue, order, threads = db.engine.get_execution_options()["write_queue"], [], []

    def write(name: str) -> None:
        with writing(db.engine):
            order.append(name)

    with writing(db.engine):
        for name in ("first", "second", "again"):
            threads.append(threading.Thread(target=write, args=(name,)))
            threads[-1].start()
            until(lambda: len(queue._line) == len(threads) + 1, f"{name} waits")
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "again"]


def test_who_waits_for_its_turn_in_vain_is_told_and_the_next_one_comes_through(db, monkeypatch):
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    failed = []

    def write() -> None:
        with pytest.raises(DatabaseBusy, match="without a pause; try again") as error:
            db.feedback.add(SAID)
        failed.append(error)

    with writing(db.engine):
        (thread := threading.Thread(target=write)).start()
        thread.join()
    assert failed
    assert db.feedback.add(SAID)


def test_the_log_is_emptied_once_nobody_reads_from_it(db, path):
    db.feedback.add(SAID)
    log = path.with_name(f"{path.name}-wal")
    with reading(db.engine) as connection:
        connection.execute(text("SELECT * FROM feedback")).all()
        db.feedback.add(SAID)
        assert not db.empty_log()
        assert log.stat().st_size
    assert db.empty_log()
    assert log.stat().st_size == 0
    with reading(db.engine) as connection:
        assert pragma(connection, "busy_timeout") == 10_000
