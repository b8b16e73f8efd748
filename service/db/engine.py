"""A SQLite engine whose acknowledged writes survive a power cut."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, LargeBinary, cast, create_engine, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError as SqlDatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from lars_agent.errors import DiskFull
from lars_agent.files import make_folder
from service.db.errors import DatabaseBusy, DatabaseUnusable

BUSY_TIMEOUT_S = 10.0
PRAGMAS = {
    "journal_mode": "WAL",  # readers do not wait for the writer
    "synchronous": "FULL",  # a commit returns when it is on the disk, also in WAL mode
    "foreign_keys": "ON",
    "secure_delete": "ON",  # deleted text is overwritten
}
CORRUPT = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN)
PRIMARY_CODE = 0xFF  # an extended result code keeps the primary one in its low byte


def create(path: Path) -> Engine:
    """Create an engine on the file `path`, and the file if it is missing, readable by its owner only."""
    make_folder(path.parent)
    with failures_named(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives the files beside it the same mode
        engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
        with engine.connect():
            return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction, which does not see what is written meanwhile."""
    with failures_named(Path(engine.url.database or "")), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that holds the write lock from the start; it is on the disk afterwards, or undone.

    Raises DatabaseBusy if another process keeps the lock, DiskFull.
    """
    immediate = engine.execution_options(begin="IMMEDIATE")
    with failures_named(Path(engine.url.database or "")), immediate.begin() as connection:
        yield connection


def last_message(messages: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the text of the last of the messages."""
    return func.json_extract(messages, "$[#-1].content")


def mentions(words: str, messages: ColumnElement[Any], *texts: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that all of `words` are in the messages, or in the other texts, in upper or lower case."""
    turns = func.json_each(messages).table_valued("value")
    said = select(func.group_concat(func.json_extract(turns.c.value, "$.content"), "\n"))
    whole: ColumnElement[Any] = said.scalar_subquery()
    for text in texts:
        whole = whole.concat("\n").concat(func.coalesce(text, ""))
    return func.mentions(whole, words) == 1


def stored_bytes(*columns: ColumnElement[Any]) -> ColumnElement[int]:
    """Return the size of the columns' texts in a row."""
    sizes = [func.coalesce(func.length(cast(column, LargeBinary)), 0, type_=Integer) for column in columns]
    return sum(sizes[1:], start=sizes[0])


def holds(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Return the condition that the JSON list in `column` holds `value`."""
    items = func.json_each(column).table_valued("value")
    return select(1).select_from(items).where(items.c.value == value).exists()


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Convert SQLite's errors about the file into errors that say what to do."""
    try:
        yield
    except (SqlDatabaseError, sqlite3.DatabaseError) as error:
        cause = error.orig if isinstance(error, SqlDatabaseError) else error
        code = (getattr(cause, "sqlite_errorcode", None) or 0) & PRIMARY_CODE
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"no room on the disk for the database {path}; free some space and try again") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            message = f"the database {path} has been busy for {BUSY_TIMEOUT_S:.0f} s; is another daemon running?"
            raise DatabaseBusy(message) from error
        if code == sqlite3.SQLITE_IOERR:
            message = f"the disk does not do what the database {path} asks ({cause}): is it full, or failing?"
            raise DatabaseUnusable(message) from error
        if code == sqlite3.SQLITE_READONLY:
            message = f"the database {path} cannot be written to ({cause}); check the owner of the file and its folder"
            raise DatabaseUnusable(f"{message}, and that its disk is not mounted read-only") from error
        if code in CORRUPT:
            message = f"the database {path} cannot be used ({cause}); restore a backup or move it away"
            raise DatabaseUnusable(message) from error
        raise  # a bug of ours


def _mentions(text: str | None, words: str) -> bool:
    folded = (text or "").casefold()
    return all(word in folded for word in words.casefold().split())


def _set_pragmas(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    """Configure a new connection; `_begin` begins its transactions."""
    connection.isolation_level = None
    connection.create_function("mentions", 2, _mentions, deterministic=True)
    for name, value in PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {value}")


def _begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get("begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
