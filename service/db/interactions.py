"""Prompts and the replies they got."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, RowMapping, String, delete, func, insert, select, type_coerce

from lars_agent.example import Message
from service.db.engine import reading, stored_bytes, writing
from service.db.errors import InteractionNotFound
from service.db.records import InteractionHour, InteractionRecord, new_id, now_utc
from service.db.tables import interactions

BATCH_ROWS = 500  # deleted at once: nobody waits long for the database


def new_interaction_id() -> str:
    """An id for an interaction that is not finished yet."""
    return new_id("i", now_utc())


class Interactions:
    """The interactions of the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        profile: str,
        messages: Sequence[Message],
        parameters: Mapping[str, Any],
        response: str,
        adapter_version: int | None,
        finish_reason: str,
        prompt_tokens: int,
        generated_tokens: int,
        seed: int | None,
        interaction_id: str | None = None,
    ) -> str:
        """The id of the interaction, which is on the disk; a new one, or that which `new_interaction_id` has given."""
        created = now_utc()
        values = {
            "id": interaction_id or new_id("i", created),
            "created": created,
            "profile": profile,
            "messages": list(messages),
            "parameters": dict(parameters),
            "response": response,
            "adapter_version": adapter_version,
            "finish_reason": finish_reason,
            "prompt_tokens": prompt_tokens,
            "generated_tokens": generated_tokens,
            "seed": seed,
        }
        with writing(self._engine) as connection:
            connection.execute(insert(interactions), values)
        return str(values["id"])

    def get(self, interaction_id: str) -> InteractionRecord:
        """One interaction. Raises InteractionNotFound."""
        with reading(self._engine) as connection:
            row = connection.execute(select(interactions).where(interactions.c.id == interaction_id)).mappings().first()
        if row is None:
            raise missing(interaction_id)
        return _record(row)

    def list(self, profile: str | None = None, limit: int = 100, after: str | None = None) -> list[InteractionRecord]:
        """The latest interactions, newest first; `after` is the id of the last one already seen."""
        query = select(interactions).order_by(interactions.c.seq.desc()).limit(limit)
        if profile is not None:
            query = query.where(interactions.c.profile == profile)
        if after is not None:
            seen = select(interactions.c.seq).where(interactions.c.id == after).scalar_subquery()
            query = query.where(interactions.c.seq < seen)
        with reading(self._engine) as connection:
            return [_record(row) for row in connection.execute(query).mappings()]

    def count(self) -> int:
        """How many there are."""
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(interactions)).scalar_one()

    def delete(self, interaction_id: str) -> None:
        """The interaction is gone; feedback on it keeps its own copy of the text. Raises InteractionNotFound."""
        with writing(self._engine) as connection:
            if not connection.execute(delete(interactions).where(interactions.c.id == interaction_id)).rowcount:
                raise missing(interaction_id)

    def hours(self) -> builtins.list[InteractionHour]:
        """What there is, hour by hour, oldest first: few, however many interactions there are."""
        size = stored_bytes(interactions.c.messages, interactions.c.parameters, interactions.c.response)
        columns = (func.max(interactions.c.created).label("latest"), func.sum(size).label("bytes"))
        query = select(_hour().label("name"), *columns).group_by("name").order_by(func.min(interactions.c.seq))
        with reading(self._engine) as connection:
            return [InteractionHour(**row) for row in connection.execute(query).mappings()]

    def delete_hours(self, names: Sequence[str]) -> int:
        """How many interactions of these hours were deleted: at most `BATCH_ROWS`, 0 once none is left."""
        batch = select(interactions.c.seq).where(_hour().in_(names)).order_by(interactions.c.seq).limit(BATCH_ROWS)
        with writing(self._engine) as connection:
            return connection.execute(delete(interactions).where(interactions.c.seq.in_(batch))).rowcount


def _hour() -> ColumnElement[str]:
    """The hour in which a row came: `2026-03-01T12`."""
    return func.substr(type_coerce(interactions.c.created, String), 1, 13, type_=String)


def missing(interaction_id: str) -> InteractionNotFound:
    """The error that says so."""
    return InteractionNotFound(f"there is no interaction {interaction_id!r}")


def _record(row: RowMapping) -> InteractionRecord:
    values = {name: value for name, value in row.items() if name != "seq"}
    return InteractionRecord(**{**values, "messages": tuple(values["messages"])})
