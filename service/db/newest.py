"""The time of the newest record of any kind."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, func, select

from service.db.engine import reading
from service.db.tables import UtcTime, erasures, interactions, jobs, runs, scheduled_runs, stored_feedback

NUMBERED = (interactions.c.created, stored_feedback.c.created, jobs.c.created, jobs.c.finished, erasures.c.created)
OTHERS = (runs.c.last_run, scheduled_runs.c.decided)  # few rows


def newest(engine: Engine, until: datetime | None = None) -> datetime | None:
    """Return the time of the newest record, of those `until` a time if one is given; None if there is none.

    Of a table whose rows are numbered the last one is read: each bears a time no earlier than the one before.
    """
    queries: list[Select[Any]] = [
        *(select(time).where(time.is_not(None)).order_by(time.table.c.seq.desc()).limit(1) for time in NUMBERED),
        *(select(func.max(time, type_=UtcTime())) for time in OTHERS),
    ]
    if until is not None:
        queries = [query.where(time <= until) for query, time in zip(queries, (*NUMBERED, *OTHERS), strict=True)]
    with reading(engine) as connection:
        found: list[datetime | None] = [connection.scalar(query) for query in queries]
    return max(filter(None, found), default=None)
