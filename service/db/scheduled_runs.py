"""The scheduled runs of each profile: when the last one was, and the outcome of every one."""

from __future__ import annotations

import builtins
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from service.db.engine import reading, writing
from service.db.records import RunOutcome, ScheduledRun
from service.db.tables import runs, scheduled_runs


class ScheduledRuns:
    """The scheduled runs in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def last_run(self, profile: str) -> datetime | None:
        """Return the time that was noted last for `profile`, None if there is none."""
        with reading(self._engine) as connection:
            return connection.execute(select(runs.c.last_run).where(runs.c.profile == profile)).scalar_one_or_none()

    def note_run(self, profile: str, when: datetime) -> None:
        """Store the time of `profile`'s last run."""
        note = insert(runs).values(profile=profile, last_run=when)
        with writing(self._engine) as connection:
            connection.execute(note.on_conflict_do_update(index_elements=["profile"], set_={"last_run": when}))

    def record(self, run: ScheduledRun) -> None:
        """Store the outcome of `run`; it replaces an earlier one of the same moment."""
        values = asdict(run)
        note = insert(scheduled_runs).values(**values)
        with writing(self._engine) as connection:
            connection.execute(note.on_conflict_do_update(index_elements=["profile", "scheduled"], set_=values))

    def delete_before(self, when: datetime) -> int:
        """Delete the runs scheduled before `when`; return their number."""
        with writing(self._engine) as connection:
            return connection.execute(delete(scheduled_runs).where(scheduled_runs.c.scheduled < when)).rowcount

    def counts(self) -> dict[RunOutcome, int]:
        """Return the number of runs by outcome; an outcome without runs is left out."""
        query = select(scheduled_runs.c.outcome, func.count()).group_by(scheduled_runs.c.outcome)
        with reading(self._engine) as connection:
            return {outcome: count for outcome, count in connection.execute(query)}

    def list(self, profile: str | None = None, limit: int = 100) -> builtins.list[ScheduledRun]:
        """Return the latest runs, newest first."""
        order = (scheduled_runs.c.scheduled.desc(), scheduled_runs.c.profile)
        query = select(scheduled_runs).order_by(*order).limit(limit)
        if profile is not None:
            query = query.where(scheduled_runs.c.profile == profile)
        with reading(self._engine) as connection:
            return [ScheduledRun(**row) for row in connection.execute(query).mappings()]
