"""When each profile last had its night, so that a missed one is made up, once; and what became of each."""

from __future__ import annotations

import builtins
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Engine, delete, select
from sqlalchemy.dialects.sqlite import insert

from service.db.engine import reading, writing
from service.db.records import CycleRecord
from service.db.tables import cycles, runs


class Cycles:
    """The schedule's memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def last_run(self, profile: str) -> datetime | None:
        """The moment noted last for `profile` (UTC), None if none ever was."""
        with reading(self._engine) as connection:
            return connection.execute(select(runs.c.last_run).where(runs.c.profile == profile)).scalar_one_or_none()

    def note_run(self, profile: str, when: datetime) -> None:
        """`when` is `profile`'s last run."""
        note = insert(runs).values(profile=profile, last_run=when)
        with writing(self._engine) as connection:
            connection.execute(note.on_conflict_do_update(index_elements=["profile"], set_={"last_run": when}))

    def record(self, cycle: CycleRecord) -> None:
        """What became of the cycle's moment is known, whatever was noted of it before."""
        values = asdict(cycle)
        note = insert(cycles).values(**values)
        with writing(self._engine) as connection:
            connection.execute(note.on_conflict_do_update(index_elements=["profile", "scheduled"], set_=values))

    def delete_before(self, when: datetime) -> int:
        """How many moments earlier than `when` are known no longer."""
        with writing(self._engine) as connection:
            return connection.execute(delete(cycles).where(cycles.c.scheduled < when)).rowcount

    def list(self, profile: str | None = None, limit: int = 100) -> builtins.list[CycleRecord]:
        """What became of the latest moments, newest first."""
        query = select(cycles).order_by(cycles.c.scheduled.desc(), cycles.c.profile).limit(limit)
        if profile is not None:
            query = query.where(cycles.c.profile == profile)
        with reading(self._engine) as connection:
            return [CycleRecord(**row) for row in connection.execute(query).mappings()]
