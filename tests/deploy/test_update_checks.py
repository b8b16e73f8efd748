"""The database over an update that was tried, and over one that was taken back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deploy import update_checks
from service.db.migrate import migrate, revision
from tests.service.db.test_upgrades import SCHEMAS

EARLIER = SCHEMAS[-2]
NEW = "INSERT INTO feedback (id, created, profile, messages, response, tags) VALUES (?, '', 'alice', '[]', ?, '[]')"
ERASED = "INSERT INTO erasures (id, created, profiles, feedback, interactions, versions, stages) VALUES "


def run(path: Path, *statements: tuple[str, tuple[str, ...]]) -> list[tuple[object, ...]]:
    """Execute the statements; return the rows of the last one."""
    with closing(sqlite3.connect(path)) as database, database:
        rows: list[tuple[object, ...]] = []
        for sql, values in statements:
            rows = database.execute(sql, values).fetchall()
        return rows


def feedback(path: Path) -> list[tuple[object, ...]]:
    return run(path, ("SELECT id, response FROM feedback ORDER BY seq", ()))


@pytest.fixture
def state(tmp_path) -> Path:
    """A state folder of an earlier schema, whose database has been copied as before an update."""
    with closing(sqlite3.connect(tmp_path / update_checks.DATABASE)) as database:
        database.executescript(EARLIER.read_text(encoding="utf-8"))
    update_checks.main("copy", str(tmp_path / update_checks.DATABASE), str(tmp_path / "update" / "before.db"))
    return tmp_path


def test_a_migration_is_undone_and_what_came_since_is_kept_and_what_was_forgotten_is_not(state, capsys):
    database = state / update_checks.DATABASE
    old = feedback(database)
    migrate(database)
    erasure = (f"{ERASED} ('e-new', '', '[]', '[\"feedback-1\"]', 0, '{{}}', '{{}}')", ())
    run(database, (NEW, ("f-new", "came since")), ("DELETE FROM feedback WHERE id = 'feedback-1'", ()), erasure)
    update_checks.main("restore", str(state))
    assert revision(database) == EARLIER.stem
    assert [row[0] for row in old] == ["feedback-1"]
    assert feedback(database) == [("f-new", "came since")]
    assert run(database, ("SELECT id FROM erasures ORDER BY seq", ())) == [("erasures-1",), ("e-new",)]
    assert "came since and kept: 1 feedback, 1 erasures" in capsys.readouterr().out
    assert not list(state.glob(f"{update_checks.DATABASE}.*"))
    migrate(database)  # and the next update goes on from there
    assert feedback(database) == [("f-new", "came since")]


def test_a_migration_that_lost_rows_loses_none(state):
    database = state / update_checks.DATABASE
    old = feedback(database)
    migrate(database)
    run(database, ("DELETE FROM feedback", ()))
    update_checks.main("restore", str(state))
    assert feedback(database) == old


def test_what_does_not_fit_into_the_earlier_schema_is_kept_beside_it_and_said(state, capsys):
    database = state / update_checks.DATABASE
    old = feedback(database)
    migrate(database)
    run(
        database,
        ("PRAGMA ignore_check_constraints = ON", ()),
        (NEW, ("f-new", "came since")),
        ("UPDATE feedback SET rating = 7", ()),
    )
    update_checks.main("restore", str(state))
    (aside,) = state.glob(f"{update_checks.DATABASE}.*")
    assert ("f-new", "came since") in feedback(aside)
    assert feedback(database) == old
    assert str(aside) in capsys.readouterr().out


def test_a_database_that_the_new_version_has_damaged_is_replaced_and_kept(state):
    database = state / update_checks.DATABASE
    old = feedback(database)
    database.write_bytes(b"SQLite format 3\0" + bytes(5000))
    update_checks.main("restore", str(state))
    assert feedback(database) == old
    assert (state / f"{update_checks.DATABASE}.from-the-update").read_bytes().endswith(bytes(5000))


def test_without_a_migration_nothing_is_put_back(state, capsys):
    database = state / update_checks.DATABASE
    run(database, (NEW, ("f-new", "came since")), ("DELETE FROM feedback WHERE id = 'feedback-1'", ()))
    update_checks.main("restore", str(state))
    assert feedback(database) == [("f-new", "came since")]
    assert "as it was" in capsys.readouterr().out


def test_a_copy_has_what_is_only_in_the_log_and_its_training_is_off(state):
    for name in ("models", "jobs", "adapters/alice/v0001", "adapters/alice/.v0002.tmp"):
        (state / name).mkdir(parents=True)
    (state / "adapters" / "alice" / "active").write_text("1")
    (state / "settings.json").write_text("{}")
    database = state / update_checks.DATABASE
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE jobs SET status = 'running'")
        writer.commit()
        update_checks.main("prepare", str(state))
        trial = state / "update" / "trial"
        assert run(trial / update_checks.DATABASE, ("SELECT status FROM jobs", ())) == [("cancelled",)]
    assert run(database, ("SELECT status FROM jobs", ())) == [("running",)]
    assert sorted(path.relative_to(trial).as_posix() for path in trial.rglob("*")) == [
        "adapters",
        "adapters/alice",
        "adapters/alice/active",
        "adapters/alice/v0001",
        update_checks.DATABASE,
        "models",
        "settings.json",
    ]
    assert (trial / "models").resolve() == state / "models"
