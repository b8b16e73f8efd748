"""Prompts and the replies they got."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, String, delete, func, insert, select, type_coerce

from service.db.base import Records
from service.db.engine import last_message, mentions, reading, stored_bytes, writing
from service.db.errors import InteractionNotFound
from service.db.records import Conversation, InteractionHour, InteractionRecord, new_id, now_utc
from service.db.tables import interactions

BATCH_ROWS = 500  # deleted at once, so that nobody waits long for the database
RECENT_ROWS = 1000  # in which a reply is looked for that its client knows by its text


def new_interaction_id(now: datetime | None = None) -> str:
    """Return an id for a new interaction."""
    return new_id("i", now or now_utc())


class Interactions(Records[InteractionRecord]):
    """The interactions of the database behind `engine`."""

    table, record, not_found = interactions, InteractionRecord, InteractionNotFound

    def add(self, new: InteractionRecord) -> None:
        """Store an interaction."""
        with writing(self._engine) as connection:
            connection.execute(insert(interactions), vars(new))

    def list(self, limit: int = 100, after: str | None = None, **filters: str | None) -> list[InteractionRecord]:
        """Return the latest interactions, newest first; `after` is the id of the last one already seen.

        See `filters`.
        """
        return self._latest(limit, after, *self.filters(**filters))

    def count(self, **filters: str | None) -> int:
        """Return the number of interactions. See `filters`."""
        return self._count(*self.filters(**filters))

    def latest(self, profile: str | None, asked: str, response: str) -> InteractionRecord | None:
        """Return the last of the latest interactions with this reply to this message; None if there is none."""
        row = interactions.c
        recent = select(row.seq).where(*self._of(profile)).order_by(row.seq.desc()).limit(RECENT_ROWS)
        same = (row.seq.in_(recent), row.response == response, last_message(row.messages) == asked)
        return next(iter(self._latest(1, None, *same)), None)

    def conversations(
        self, limit: int = 100, after: str | None = None, profile: str | None = None, q: str | None = None
    ) -> builtins.list[Conversation]:
        """Return the conversations that mention `q`, the one last spoken in first; `after` is the last one seen."""
        row, name = interactions.c, interactions.c.conversation
        seen = select(func.max(row.seq)).where(name == after).scalar_subquery()
        wanted = [name.is_not(None), *self.filters(profile=profile)]
        if q is not None:
            wanted.append(name.in_(select(name).where(name.is_not(None), *self.filters(profile=profile, q=q))))
        ends = (func.min(row.seq).label("first"), func.max(row.seq).label("last"), func.count().label("interactions"))
        groups = select(*ends).where(*wanted).group_by(name, row.profile)
        if after is not None:
            groups = groups.having(func.max(row.seq) < seen)
        found = groups.order_by(func.max(row.seq).desc()).limit(limit).subquery()
        last = interactions.alias()
        query = (
            select(
                name.label("id"),
                row.profile,
                last_message(row.messages).label("title"),
                row.created,
                last.c.created.label("updated"),
                found.c.interactions,
            )
            .join(found, found.c.first == row.seq)
            .join(last, last.c.seq == found.c.last)
            .order_by(found.c.last.desc())
        )
        with reading(self._engine) as connection:
            return [Conversation(**found) for found in connection.execute(query).mappings()]

    @classmethod
    def filters(
        cls, profile: str | None = None, conversation: str | None = None, q: str | None = None
    ) -> builtins.list[ColumnElement[bool]]:
        """Return the conditions of interactions of the profile and conversation whose texts mention the words `q`."""
        conditions = cls._of(profile)
        if conversation is not None:
            conditions.append(interactions.c.conversation == conversation)
        if q is not None:
            conditions.append(mentions(q, interactions.c.messages, interactions.c.response))
        return conditions

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
