"""Prompts and the replies they got."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from sqlalchemy import ColumnElement, String, delete, func, insert, select, type_coerce

from service.db.base import Records
from service.db.engine import reading, stored_bytes, writing
from service.db.errors import InteractionNotFound
from service.db.records import InteractionHour, InteractionRecord, new_id, now_utc
from service.db.tables import interactions

BATCH_ROWS = 500  # deleted at once, so that nobody waits long for the database


def new_interaction_id() -> str:
    """Return an id for a new interaction."""
    return new_id("i", now_utc())


class Interactions(Records[InteractionRecord]):
    """The interactions of the database behind `engine`."""

    table, record, not_found = interactions, InteractionRecord, InteractionNotFound

    def add(self, new: InteractionRecord) -> None:
        """Store an interaction."""
        with writing(self._engine) as connection:
            connection.execute(insert(interactions), vars(new))

    def list(self, profile: str | None = None, limit: int = 100, after: str | None = None) -> list[InteractionRecord]:
        """Return the latest interactions, newest first; `after` is the id of the last one already seen."""
        return self._latest(limit, after, *self._of(profile))

    def count(self) -> int:
        """Return the number of interactions."""
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(interactions)).scalar_one()

    def hours(self) -> builtins.list[InteractionHour]:
        """Return the interactions by hour, oldest first: few, however many interactions there are."""
        size = stored_bytes(interactions.c.messages, interactions.c.parameters, interactions.c.response)
        columns = (func.max(interactions.c.created).label("latest"), func.sum(size).label("bytes"))
        query = select(_hour().label("name"), *columns).group_by("name").order_by(func.min(interactions.c.seq))
        with reading(self._engine) as connection:
            return [InteractionHour(**row) for row in connection.execute(query).mappings()]

    def delete_hours(self, names: Sequence[str]) -> int:
        """Delete up to `BATCH_ROWS` interactions of these hours; return their number, 0 once none is left."""
        batch = select(interactions.c.seq).where(_hour().in_(names)).order_by(interactions.c.seq).limit(BATCH_ROWS)
        with writing(self._engine) as connection:
            return connection.execute(delete(interactions).where(interactions.c.seq.in_(batch))).rowcount


def _hour() -> ColumnElement[str]:
    """Return the hour in which a row was stored: `2026-03-01T12`."""
    return func.substr(type_coerce(interactions.c.created, String), 1, 13, type_=String)
