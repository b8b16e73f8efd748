from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.db import Database
from service.db.engine import create, reading
from service.db.errors import DatabaseTooNew
from service.db.migrate import SCRIPTS, migrate, revision
from service.db.records import NewFeedback, ScheduledRun
from service.db.tables import metadata

HEAD = max(path.name[:4] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))
NEXT = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "9999", "HEAD", None, None


def upgrade():
    op.create_table("extra", sa.Column("id", sa.Integer, primary_key=True))
    op.add_column("feedback", sa.Column("mood", sa.Text))
    {then}
"""
SAID = NewFeedback(messages=({"role": "user", "content": "Hi"},), response="Yo", rating=1.0)


def scripts_with(folder, then: str):
    """The migrations, and a next one that ends with `then`."""
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_next.py").write_text(NEXT.format(then=then).replace("HEAD", HEAD))
    return folder


def dump(path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_tables_are_what_the_migrations_make(path):
    migrate(path)
    engine = create(path)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_constraints_and_indexes_are_what_the_migrations_make(path):
    """Autogenerate does not compare CHECK constraints, so here the SQL is compared, white space aside."""
    migrate(path)
    direct = create(path.with_name("direct.db"))
    metadata.create_all(direct)
    direct.dispose()
    assert sql_of(path) == sql_of(path.with_name("direct.db"))


def sql_of(path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL").fetchall()
    return {name: set(pieces_of(sql)) for name, sql in rows if name != "alembic_version"}


def pieces_of(sql: str) -> list[str]:
    """A statement's columns and constraints, however they are laid out: a column that was added stands at the end."""
    head, _, inside = " ".join(sql.split()).partition("(")
    pieces, depth = [""], 0
    for letter in inside.rpartition(")")[0]:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [head.strip(), *(piece.strip() for piece in pieces)]


def test_migrating_again_changes_nothing(path):
    migrate(path)
    before = path.read_bytes()
    migrate(path)
    assert path.read_bytes() == before


def test_rows_survive_a_migration(path, tmp_path):
    db = Database(path)
    record, _ = db.feedback.add(SAID)
    db.close()
    migrate(path, scripts_with(tmp_path / "scripts", "pass"))
    assert revision(path) == "9999"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id, mood FROM feedback").fetchall() == [(record.id, None)]


def test_scheduled_runs_of_a_database_from_before_the_rename_are_kept(path, tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "0002", ignore=shutil.ignore_patterns("__pycache__", "000[3-9]_*", "001*"))
    migrate(path, tmp_path / "0002")
    night = "2026-03-04T03:00:00.000000Z"
    with closing(sqlite3.connect(path)) as connection:
        row = ("default", night, night, "ran", "4 new examples", "j-1")
        connection.execute("INSERT INTO cycles VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO runs VALUES ('default', ?)", (night,))
        connection.commit()
    db = Database(path)
    moment = datetime(2026, 3, 4, 3, tzinfo=UTC)
    assert db.scheduled_runs.list() == [ScheduledRun("default", moment, moment, "ran", "4 new examples", "j-1")]
    assert db.scheduled_runs.last_run("default") == moment
    db.close()
    assert not [line for line in dump(path) if "cycles" in line]


@pytest.mark.parametrize("failure", ["raise ZeroDivisionError", 'op.execute("SELECT * FROM nowhere")'])
def test_migration_that_fails_rolls_back_wholly(path, tmp_path, failure):
    db = Database(path)
    db.feedback.add(SAID)
    db.close()
    before = dump(path)
    with pytest.raises(Exception, match=r"nowhere|^$"):
        migrate(path, scripts_with(tmp_path / "scripts", failure))
    assert dump(path) == before
    assert revision(path) == HEAD


def test_first_migration_that_fails_leaves_no_table(path, tmp_path):
    with pytest.raises(ZeroDivisionError):
        migrate(path, scripts_with(tmp_path / "scripts", "raise ZeroDivisionError"))
    assert "CREATE TABLE" not in "".join(dump(path))
    Database(path).close()


def test_newer_database_is_refused_and_untouched(path, tmp_path):
    migrate(path, scripts_with(tmp_path / "scripts", "pass"))
    before = contents(path.parent)
    with pytest.raises(DatabaseTooNew, match=f"has schema 9999, this lars-agent knows up to {HEAD}"):
        Database(path)
    assert contents(path.parent) == before


def test_newer_database_with_an_unmerged_log_is_refused_and_untouched(path, tmp_path):
    migrate(path)
    scripts = scripts_with(tmp_path / "scripts", "pass")
    keeper = sqlite3.connect(path)  # while it is open nobody merges the log
    keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()
    migrate(path, scripts)
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    keeper.close()
    before = contents(copy.parent)
    with pytest.raises(DatabaseTooNew):
        Database(copy)
    after = contents(copy.parent)
    assert {name: after[name] for name in before} == before


def test_folder_with_a_percent_sign_is_migrated(tmp_path):
    Database(tmp_path / "100%" / "a b.db").close()
    migrate(tmp_path / "100%" / "a b.db", scripts_with(tmp_path / "50% more", "pass"))
