"""The ids of what people have deleted, salted and hashed: enough to find it in a backup, and to tell nothing else.

A backup that is older than a deletion still holds what was deleted. So each deletion leaves a digest of every id, under
a salt that the database makes once; whoever restores a backup takes the digests of the state that it replaces, deletes
what they match, and keeps them for the next backup.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from service.db.engine import failures_named
from service.db.tables import erased, erasures

SALT_BYTES = DIGEST_BYTES = 16
BATCH = 1000  # rows in one statement
COLUMNS = tuple(column.name for column in erasures.c if column.name != "seq")


@dataclass(frozen=True)
class Erased:
    """All that a state knows to be deleted.

    Attributes:
        digests: by salt.
        ids: of feedback, where a state from before the digests names it.
        records: the rows of the table of erasures.
    """

    digests: Mapping[bytes, Collection[bytes]] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()
    records: Sequence[Mapping[str, Any]] = ()

    def among(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids that belong to something deleted."""
        return {one for one in ids if one in self.ids or self._has_digest(one)}

    def _has_digest(self, one: str) -> bool:
        return any(digest_of(salt, one) in found for salt, found in self.digests.items())


def digest_of(salt: bytes, one: str) -> bytes:
    """Return the digest of an id."""
    return hmac.digest(salt, one.encode(), "sha256")[:DIGEST_BYTES]


def note(connection: Connection, ids: Sequence[str]) -> None:
    """Keep the digests of the ids of what is being deleted, in the deletion's own transaction."""
    if not ids:
        return
    salt = connection.scalar(select(erased.c.salt).limit(1)) or secrets.token_bytes(SALT_BYTES)
    _keep(connection, {salt: {digest_of(salt, one) for one in ids}})


def adopt(connection: Connection, gone: Erased) -> None:
    """Keep what another state knows to be deleted, with its records of erasures."""
    _keep(connection, gone.digests)
    note(connection, sorted(gone.ids))
    for row in gone.records:  # as they are stored
        values = tuple(row[name] for name in COLUMNS)
        marks = ", ".join("?" * len(COLUMNS))
        connection.exec_driver_sql(f"INSERT OR IGNORE INTO erasures ({', '.join(COLUMNS)}) VALUES ({marks})", values)


def _keep(connection: Connection, digests: Mapping[bytes, Collection[bytes]]) -> None:
    rows = [{"salt": salt, "digest": digest} for salt, found in digests.items() for digest in found]
    for start in range(0, len(rows), BATCH):
        connection.execute(insert(erased).on_conflict_do_nothing(), rows[start : start + BATCH])


def read_erased(path: Path) -> Erased:
    """Return all that the database `path`, of whatever version, knows to be deleted; it is not migrated.

    Raises DatabaseUnusable where these tables cannot be read, DatabaseBusy.
    """
    with failures_named(path), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        digests: dict[bytes, set[bytes]] = {}
        if "erased" in tables:
            for salt, digest in connection.execute("SELECT salt, digest FROM erased"):
                digests.setdefault(salt, set()).add(digest)
        records = [dict(row) for row in connection.execute("SELECT * FROM erasures")] if "erasures" in tables else []
    ids = {one for record in records for one in json.loads(record["feedback"])}
    return Erased(digests, frozenset() if "erased" in tables else frozenset(ids), records)
