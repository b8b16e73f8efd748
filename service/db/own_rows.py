"""A profile's view of the database: connections on which the rows of others do not exist.

Each connection has a temporary view with the name of every table, which SQLite finds before the table: whatever is
asked on it, now or by code that is yet to be written, reads the rows of the profile alone. Changes are made in the
tables, where temporary triggers pass over the rows of others, and refuse what would not be the profile's. A table
without a rule below is empty there and cannot be written to.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, event

from lars_agent.store.names import is_profile_name
from service.db.engine import create, now_of
from service.db.tables import (
    NOBODY,
    erased,
    erasures,
    files,
    imports,
    interactions,
    jobs,
    metadata,
    runs,
    scheduled_runs,
    stored_feedback,
)

OF_PROFILE = "{row}profile = '{profile}'"
# An uploaded file that no profile has taken up is its uploader's, and so are its rows, which are nobody's yet.
OF_FILE = "({row}profile = '{profile}' OR ({row}profile IS NULL AND {row}uploader = '{profile}'))"
IN_FILE = f"{{row}}file IN (SELECT id FROM main.{files.name} WHERE {OF_FILE.replace('{row}', '')})"
RULES = {
    interactions: OF_PROFILE,
    stored_feedback: f"({OF_PROFILE} OR ({{row}}profile = '{NOBODY}' AND {IN_FILE}))",
    files: OF_FILE,
    jobs: OF_PROFILE,
    erasures: "(json_array_length({row}profiles) = 1 AND json_extract({row}profiles, '$[0]') = '{profile}')",
    runs: OF_PROFILE,
    scheduled_runs: OF_PROFILE,
    erased: "TRUE",  # digests of what everybody has deleted, which tell nothing to who cannot name it
}
READABLE = (imports,)  # the numbers of rows that are being imported, by which these are hidden
BY_ANOTHER_ROW = ("interaction_id",)  # columns that the database itself empties, whosever the row is
CHANGE = re.compile(r"(INSERT(?: OR \w+)? INTO|UPDATE|DELETE FROM) (?=\w)")


def create_own(whole: Engine, profile: str) -> Engine:
    """Create an engine on the file of `whole` that reads and changes the rows of `profile` alone."""
    assert is_profile_name(profile), "it stands in statements"
    engine = create(Path(whole.url.database or ""), lambda: now_of(whole), partial(_hide_others, profile=profile))
    event.listen(engine, "before_cursor_execute", _change_tables, retval=True)
    return engine.execution_options(write_queue=whole.get_execution_options()["write_queue"])


def _change_tables(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """Have a change made in the table and not in its view; what it asks beside that is asked of the views."""
    return CHANGE.sub(r"\1 main.", statement, count=1) if CHANGE.match(statement) else statement, parameters


def _hide_others(connection: sqlite3.Connection, profile: str) -> None:
    connection.execute("PRAGMA temp_store = MEMORY")
    for table in metadata.sorted_tables:
        for statement in _statements(table, profile):
            connection.execute(statement)


def _statements(table: Table, profile: str) -> Iterator[str]:
    """Yield the statements that make the view of a table, and the triggers on the table."""

    def own(row: str) -> str:
        return RULES.get(table, "FALSE").format(row=row, profile=profile)

    name = table.name
    yield f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} WHERE {'TRUE' if table in READABLE else own('')}"
    skip = f"SELECT RAISE(IGNORE) WHERE ({own('OLD.')}) IS NOT TRUE"
    refuse = f"SELECT RAISE(ABORT, 'not a row of this profile') WHERE ({own('NEW.')}) IS NOT TRUE"
    columns = ", ".join(column.name for column in table.columns if column.name not in BY_ANOTHER_ROW)
    for number, (change, body) in enumerate(
        (("INSERT", refuse), (f"UPDATE OF {columns}", f"{skip}; {refuse}"), ("DELETE", skip))
    ):
        yield f"CREATE TEMP TRIGGER own_{name}_{number} BEFORE {change} ON main.{name} BEGIN {body}; END"
