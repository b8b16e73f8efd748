"""Print a database of a schema, with one row in each table, as SQL.

Run it for a release and keep the output, for `test_upgrades.py`:

    python -m tests.service.db.dump_schema 0008 > tests/service/db/schemas/0008.sql
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from service.db.migrate import SCRIPTS, migrate

MOMENT = "2026-03-04T03:00:00.000000Z"
TURN = [{"role": "user", "content": "What is my dog called? \u00e4\u00f6\u00fc \u732b"}]
BY_COLUMN = {
    "id": "{table}-1",
    "interaction_id": "interactions-1",
    "job_id": "jobs-1",
    "messages": json.dumps(TURN),
    "profile": "alice",
    "profiles": '["alice"]',
    "feedback": '["feedback-0"]',
    "tags": '["pets", "it\'s"]',
    "recalled": '["feedback-0"]',
    "response": "I do not know;\n'really' not.",
    "correction": "Your dog is called Biscuit.",
    "rating": -1.0,
    "status": "succeeded",
    "outcome": "ran",
    "trigger": "manual",
    "source": "stated",
    "finish_reason": "eos_token",
    "file": "files-1",
    "first": 7,  # an import of rows that are not there
    "last": 9,
}
BY_TYPE = {"INTEGER": 3, "TEXT": "some text", "VARCHAR(27)": MOMENT, "VARCHAR(64)": "a name", "JSON": '{"a": 1}'}


def fill(connection: sqlite3.Connection) -> None:
    """Insert a row into each table, with a value in each column."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name DESC").fetchall()
    for (table,) in tables:
        if table.startswith("sqlite_") or table == "alembic_version":
            continue
        columns = [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({table})")]
        values = [BY_COLUMN.get(name, BY_TYPE.get(kind, name)) for name, kind in columns]
        filled = [value.format(table=table) if value == "{table}-1" else value for value in values]
        places = ", ".join("?" * len(filled))
        connection.execute(f"INSERT INTO {table} VALUES ({places})", filled)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, scripts = Path(folder) / "lars-agent.db", Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, scripts)
        for script in (scripts / "versions").glob("[0-9]*.py"):
            if script.name[:4] > sys.argv[1]:
                script.unlink()
        migrate(path, scripts)
        with closing(sqlite3.connect(path)) as connection:
            fill(connection)
            sys.stdout.write("\n".join(connection.iterdump()) + "\n")


if __name__ == "__main__":
    main()
