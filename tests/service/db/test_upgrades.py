"""A database of every schema that was ever in use opens today, with all its rows: see `dump_schema`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from service.db import Database
from service.db.migrate import SCRIPTS, migrate, revision
from tests.service.db import dump_schema
from tests.service.db.test_migrate import HEAD, sql_of

SCHEMAS = sorted(Path(__file__).with_name("schemas").glob("*.sql"))
RENAMED = {"cycles": "scheduled_runs"}

Rows = dict[str, dict[str, Any]]


def rows_of(path: Path) -> Rows:
    """The row of each table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = [name for name in names if not name.startswith("sqlite_") and name != "alembic_version"]
        return {name: dict(connection.execute(f"SELECT * FROM {name}").fetchone() or {}) for name in tables}


class Upgraded(NamedTuple):
    """The rows before, and the file after."""

    written: Rows
    path: Path


@pytest.fixture(scope="module", params=SCHEMAS, ids=lambda file: file.stem)
def upgraded(request, tmp_path_factory) -> Upgraded:
    path = tmp_path_factory.mktemp("upgrade") / "lars-agent.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(request.param.read_text(encoding="utf-8"))
    assert revision(path) == request.param.stem
    written = rows_of(path)
    migrate(path)
    return Upgraded(written, path)


@pytest.fixture(scope="module")
def new_tables(tmp_path_factory) -> dict[str, set[str]]:
    path = tmp_path_factory.mktemp("new") / "lars-agent.db"
    migrate(path)
    return sql_of(path)


def test_every_schema_before_the_newest_has_its_dump():
    known = {file.name[:4] for file in (SCRIPTS / "versions").glob("[0-9]*.py")}
    assert known - {HEAD} <= {file.stem for file in SCHEMAS}, dump_schema.__doc__


def test_a_dump_has_a_value_in_every_column(upgraded):
    assert len(upgraded.written) >= 4
    assert [name for name, row in upgraded.written.items() if not row or None in row.values()] == []


def test_all_rows_survive_with_all_they_had(upgraded):
    today = rows_of(upgraded.path)
    for table, row in upgraded.written.items():
        kept = today[RENAMED.get(table, table)]
        assert {column: kept[column] for column in row} == row, table
    with closing(sqlite3.connect(upgraded.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_tables_are_those_of_a_new_database(upgraded, new_tables):
    assert revision(upgraded.path) == HEAD
    assert sql_of(upgraded.path) == new_tables


def test_the_rows_can_be_read(upgraded):
    db = Database(upgraded.path)
    try:
        feedback, interaction = db.feedback.get("feedback-1"), db.interactions.get("interactions-1")
        assert feedback.correction == upgraded.written["feedback"]["correction"]
        assert feedback.interaction_id == interaction.id
        assert interaction.messages[0]["content"] == "What is my dog called? äöü 猫"
        assert db.jobs.get("jobs-1").status == "succeeded"
        if not upgraded.written.keys().isdisjoint({"scheduled_runs", "cycles"}):
            assert [run.job_id for run in db.scheduled_runs.list()] == ["jobs-1"]
    finally:
        db.close()
