"""What clients were promised, and what a database that went through something holds of it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

Stored = tuple[str | None, str, str | None]  # a row's Idempotency-Key, id and comment; clients write the key there too


@dataclass(frozen=True)
class Account:
    """Of feedback that was answered with 2xx: how much, and the keys that are missing or there more than once."""

    acknowledged: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]


class Ledger:
    """The feedback that was answered with 2xx, by its Idempotency-Key, and how often clients met which status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: dict[str, str] = {}
        self._statuses: Counter[int] = Counter()
        self._words: dict[int, set[str]] = {}

    def met(self, status: int, words: str = "") -> None:
        """A client was answered so; 0 is no answer. `words` is what it was told of an error."""
        with self._lock:
            self._statuses[status] += 1
            if words:
                self._words.setdefault(status, set()).add(words)

    def acknowledge(self, key: str, feedback_id: str) -> None:
        """A client was told that its feedback is stored under that id."""
        with self._lock:
            self._acknowledged[key] = feedback_id

    def acknowledged(self) -> dict[str, str]:
        """The id of each key, until now."""
        with self._lock:
            return dict(self._acknowledged)

    def statuses(self) -> dict[str, int]:
        """How often each was met."""
        with self._lock:
            return {str(status): count for status, count in sorted(self._statuses.items())}

    def words(self) -> dict[str, list[str]]:
        """What clients were told with each error."""
        with self._lock:
            return {str(status): sorted(words) for status, words in sorted(self._words.items())}


def account(acknowledged: Mapping[str, str], rows: Iterable[Stored]) -> Account:
    """What became of `acknowledged`. A row under another id than was promised is a loss; so is one without its key."""
    ids, comments = dict[str, str](), Counter[str]()
    for key, feedback_id, comment in rows:
        if key is not None:
            ids[key] = feedback_id
        if comment is not None:
            comments[comment] += 1
    lost = tuple(sorted(key for key, promised in acknowledged.items() if ids.get(key) != promised))
    duplicated = tuple(sorted(comment for comment, count in comments.items() if count > 1))
    return Account(len(acknowledged), lost, duplicated)


def stored_feedback(database: Path) -> list[Stored]:
    """Every row of feedback in the file, which nobody writes to just now; none where it cannot be read."""
    with opened_copy(database) as connection:
        try:
            return connection.execute("SELECT idempotency_key, id, comment FROM feedback").fetchall()
        except sqlite3.DatabaseError:
            return []


def integrity(database: Path) -> str:
    """`ok`, or what SQLite has against the file."""
    with opened_copy(database) as connection:
        try:
            return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)


@contextmanager
def opened_copy(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy: whoever opened the file itself would do the recovery that the next daemon has to do."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        copy = Path(folder) / database.name
        for suffix in ("", "-wal"):
            found = database.with_name(database.name + suffix)
            if found.exists():
                shutil.copyfile(found, copy.with_name(found.name))
        with closing(sqlite3.connect(copy)) as connection:
            yield connection
