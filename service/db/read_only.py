"""The database as it lies on the disk, for reading beside a daemon or without one; nothing is created or migrated."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, func, select, text

from service.db.engine import address_for_reading, failures_named, reading
from service.db.jobs import Jobs
from service.db.scheduled_runs import ScheduledRuns
from service.db.tables import metadata


class ReadOnlyDatabase:
    """The rows of the file behind `engine`. Every method raises DatabaseError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.jobs, self.scheduled_runs = Jobs(engine), ScheduledRuns(engine)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        queries = {table.name: select(func.count()).select_from(table) for table in metadata.sorted_tables}
        with reading(self._engine) as connection:
            return {name: connection.execute(query).scalar_one() for name, query in queries.items()}

    def is_sound(self) -> bool:
        """Return whether SQLite finds no damage; it reads the whole file."""
        with reading(self._engine) as connection:
            return bool(connection.execute(text("PRAGMA quick_check(1)")).scalar_one() == "ok")


@contextmanager
def read_only(path: Path) -> Iterator[ReadOnlyDatabase]:
    """Open the file `path`. Raises DatabaseUnusable if there is none."""
    address = address_for_reading(path)
    connect = lambda: sqlite3.connect(address, uri=True, check_same_thread=False)  # noqa: E731
    with failures_named(path):
        yield ReadOnlyDatabase(create_engine("sqlite://", creator=connect, poolclass=NullPool))
