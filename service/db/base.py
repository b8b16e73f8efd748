"""Reading of the tables whose rows have an id and leave the package as records."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, RowMapping, Select, func, select

from service.db.engine import reading
from service.db.errors import DatabaseUnusable, RecordNotFound
from service.db.records import ErasureRecord, FeedbackRecord, FileRecord, InteractionRecord, JobRecord, SessionRecord

Record = TypeVar("Record", FeedbackRecord, InteractionRecord, JobRecord, ErasureRecord, FileRecord, SessionRecord)


class Records(Generic[Record]):
    """The rows of `table` in the database behind `engine`, as records."""

    table: ClassVar[FromClause]
    record: ClassVar[type[Any]]
    not_found: ClassVar[type[RecordNotFound]]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, record_id: str) -> Record:
        """Return one record. Raises `not_found`."""
        with reading(self._engine) as connection:
            return self._get(connection, record_id)

    def _get(self, connection: Connection, record_id: str) -> Record:
        row = connection.execute(select(self.table).where(self.table.c.id == record_id)).mappings().first()
        if row is None:
            raise self.not_found.of(record_id)
        return self._record(row)

    def _latest(self, limit: int, after: str | None, *conditions: ColumnElement[bool]) -> builtins.list[Record]:
        """Return the latest records, newest first; `after` is the id of the last one already seen."""
        query = select(self.table).where(*conditions).order_by(self.table.c.seq.desc()).limit(limit)
        if after is not None:
            seen = select(self.table.c.seq).where(self.table.c.id == after).scalar_subquery()
            query = query.where(self.table.c.seq < seen)
        return self._read(query)

    def profiles(self) -> builtins.list[str]:
        """Return every profile that has a record."""
        query = select(self.table.c.profile).distinct().order_by(self.table.c.profile)
        with reading(self._engine) as connection:
            return builtins.list(connection.scalars(query))

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(self.table).where(*conditions)).scalar_one()

    @classmethod
    def _of(cls, profile: str | None) -> builtins.list[ColumnElement[bool]]:
        return [] if profile is None else [cls.table.c.profile == profile]

    def _read(self, query: Select[Any]) -> builtins.list[Record]:
        with reading(self._engine) as connection:
            return [self._record(row) for row in connection.execute(query).mappings()]

    def _record(self, row: RowMapping | Mapping[str, Any]) -> Record:
        """Return the record of a row, with tuples for lists. Raises DatabaseUnusable for a damaged one."""
        values = {field.name: row[field.name] for field in fields(self.record)}
        if not isinstance(values["id"], str) or not _are_messages(values.get("messages", [])):
            where = f"row {row.get('seq')} of {self.table} in {self._engine.url.database}"
            raise DatabaseUnusable(f"{where} is damaged; restore a backup")
        record: Record = self.record(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        return record


def _are_messages(value: object) -> bool:
    """Return True for a list of objects with role and content."""
    messages = value if isinstance(value, list | tuple) else [None]
    return all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in messages)
