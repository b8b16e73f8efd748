"""A copy of the database as it is at one moment, made while others read and write it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from service.db.engine import BUSY_TIMEOUT_S, failures_named
from service.db.errors import DatabaseUnusable


def snapshot(source: Path, target: Path) -> None:
    """Copy the database to the new file `target`: every row committed before the call, and no deleted text.

    `VACUUM INTO` reads in one transaction, for which no writer of a write-ahead log waits; unlike the copy of
    `sqlite3_backup` it has neither free pages nor what SQLite leaves in pages, where deleted text may be. Raises
    DatabaseUnusable where the source or the copy is damaged, DatabaseBusy, DiskFull.
    """
    with _opened(source) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    with _opened(target) as copy:
        found = "; ".join(row[0] for row in copy.execute("PRAGMA integrity_check(3)"))
        if found != "ok":
            raise DatabaseUnusable(f"the database {source} is damaged ({found}); restore a backup")


def last_erasure(path: Path) -> tuple[int, str | None]:
    """Return the number of the database's last erasure, and its time (ISO 8601); 0 and None where there is none."""
    with _opened(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'erasures'").fetchone():
            return 0, None
        row = connection.execute("SELECT seq, created FROM erasures ORDER BY seq DESC LIMIT 1").fetchone()
    return (0, None) if row is None else (int(row[0]), str(row[1]))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database. It is not written to, and so not checkpointed while others have it open."""
    address = f"{path.resolve().as_uri()}?mode=rw"
    with failures_named(path), closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.isolation_level = None
        yield connection
