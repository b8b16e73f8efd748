"""Feedback that can be learned from and that no version has been trained on yet."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine, func, or_, select

from service.db.engine import reading
from service.db.tables import UtcTime, feedback, jobs


def waiting(engine: Engine) -> tuple[int, datetime | None]:
    """Return the number of these rows of all profiles, and the time of the oldest one.

    They came after the start of their profile's last job that published a version: a rejected one has taught nothing.
    """
    started = func.max(func.coalesce(jobs.c.started, jobs.c.created), type_=UtcTime())
    last = select(jobs.c.profile, started.label("at")).where(jobs.c.status == "succeeded").group_by(jobs.c.profile)
    learned = last.subquery()
    query = (
        select(func.count(), func.min(feedback.c.created, type_=UtcTime()))
        .select_from(feedback.outerjoin(learned, feedback.c.profile == learned.c.profile))
        .where(or_(feedback.c.correction.is_not(None), feedback.c.rating > 0))
        .where(or_(learned.c.at.is_(None), feedback.c.created > learned.c.at))
    )
    with reading(engine) as connection:
        count, oldest = connection.execute(query).one()
    return count, oldest
