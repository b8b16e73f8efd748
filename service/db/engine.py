"""A SQLite engine whose acknowledged writes survive a power cut."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, LargeBinary, cast, create_engine, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError as SqlDatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from lars_agent.errors import DiskFull
from lars_agent.files import make_folder
from service.db.errors import DatabaseBusy, DatabaseUnusable
from service.db.records import now_utc
from service.db.tables import DamagedValue

BUSY_TIMEOUT_S = 10.0
CHECKPOINT_WAIT_MS = 200  # for readers of the log, while which no writer gets on
PRAGMAS = {
    "journal_mode": "WAL",  # readers do not wait for the writer
    "synchronous": "FULL",  # a commit returns when it is on the disk, also in WAL mode
    "foreign_keys": "ON",
    "secure_delete": "ON",  # deleted text is overwritten
    "cache_size": "-512",  # KiB that a connection keeps of the file; the system keeps it for all of them together
}
CORRUPT = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN)
DAMAGED = ("Could not decode", "no such column", "no such table")  # a text that is no UTF-8; a schema of another
PRIMARY_CODE = 0xFF  # an extended result code keeps the primary one in its low byte


def create(
    path: Path, now: Callable[[], datetime] = now_utc, prepare: Callable[[sqlite3.Connection], object] | None = None
) -> Engine:
    """Create an engine on the file `path`, and the file if it is missing, readable by its owner only.

    `now` is the clock of what is recorded, see `now_of`; each new connection is given to `prepare`.
    """
    make_folder(path.parent)
    with failures_named(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives the files beside it the same mode
        engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _set_pragmas)
        if prepare is not None:
            event.listen(engine, "connect", lambda connection, entry: prepare(connection))
        event.listen(engine, "begin", _begin)
        with engine.connect():
            return engine.execution_options(write_queue=WriteQueue(), now=now)


def address_for_reading(path: Path) -> str:
    """Return the URI by which SQLite reads the file `path` and writes nothing.

    Without a write-ahead log beside it the file is complete: `immutable` then keeps SQLite from making one.
    """
    pending = path.with_name(f"{path.name}-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'' if pending else '&immutable=1'}"


def now_of(database: Engine | Connection) -> datetime:
    """Return the time for a new record."""
    moment: datetime = database.get_execution_options()["now"]()
    return moment


class WriteQueue:
    """Admits this process's writers one at a time, in the order in which they came.

    SQLite lets writers poll for its lock: one that writes a lot takes it again before any other has looked.
    """

    def __init__(self) -> None:
        self._guard, self._line = threading.Lock(), deque[threading.Event]()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, which ends with the block. Raises DatabaseBusy."""
        mine = threading.Event()
        with self._guard:
            self._line.append(mine)
            self._line[0].set()
        try:
            if not mine.wait(BUSY_TIMEOUT_S):
                message = f"the database has been written to for {BUSY_TIMEOUT_S:.0f} s without a pause; try again"
                raise DatabaseBusy(message)
            yield
        finally:
            with self._guard:
                self._line.remove(mine)
                if self._line:
                    self._line[0].set()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction, which does not see what is written meanwhile."""
    with failures_named(Path(engine.url.database or "")), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that holds the write lock from the start; it is on the disk afterwards, or undone.

    Raises DatabaseBusy if others keep the lock, DiskFull.
    """
    immediate = engine.execution_options(begin="IMMEDIATE")
    with _turn(engine), failures_named(Path(engine.url.database or "")), immediate.begin() as connection:
        yield connection


def empty_log(engine: Engine) -> bool:
    """Write the write-ahead log into the file and truncate it; return False while somebody still reads from it.

    Deleted rows are overwritten in the file (`secure_delete`), but the log has their pages as they were.
    """
    with _turn(engine), _statements(engine) as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
        try:
            (is_busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}")
    return not is_busy


def compact(engine: Engine) -> None:
    """Write the file anew, without free pages; nobody else writes meanwhile. Raises DatabaseBusy, DiskFull.

    `secure_delete` overwrites what is deleted, but not the copies that stay in a page's unused room when SQLite moves
    rows from page to page.
    """
    with _turn(engine), _statements(engine) as cursor:
        cursor.execute("VACUUM")


def page_bytes(engine: Engine) -> tuple[int, int]:
    """Return the size of the file, and how much of it are free pages."""
    with _statements(engine) as cursor:
        names = ("page_size", "page_count", "freelist_count")
        size, count, free = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return size * count, size * free


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
        if code in CORRUPT or str(cause).startswith(DAMAGED):
            message = f"the database {path} cannot be used ({cause}); restore a backup or move it away"
            raise DatabaseUnusable(message) from error
        raise  # a bug of ours
    except (json.JSONDecodeError, RecursionError, DamagedValue) as error:  # of a column that holds JSON, or a time
        raise DatabaseUnusable(f"a row of the database {path} is damaged ({error}); restore a backup") from error


def _turn(engine: Engine) -> AbstractContextManager[None]:
    queue: WriteQueue = engine.get_execution_options()["write_queue"]
    return queue.turn()


@contextmanager
def _statements(engine: Engine) -> Iterator[Any]:
    """Open a cursor for statements that are in no transaction."""
    with failures_named(Path(engine.url.database or "")), closing(engine.raw_connection()) as connection:
        yield connection.cursor()


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
