"""Personalization cycles: asked for, running, over."""

from __future__ import annotations

import builtins
from typing import Unpack

from sqlalchemy import Engine, RowMapping, delete, func, insert, select, update

from service.db.engine import reading, stored_bytes, writing
from service.db.errors import JobNotFound
from service.db.records import UNFINISHED, JobChanges, JobRecord, JobStatus, JobSummary, JobTrigger, new_id, now_utc
from service.db.tables import jobs


class Jobs:
    """The jobs of the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, profile: str, trigger: JobTrigger, reason: str | None = None) -> JobRecord:
        """A queued job, on the disk; `reason` says why there is one."""
        created = now_utc()
        values = {
            "id": new_id("j", created),
            "profile": profile,
            "trigger": trigger,
            "status": "queued",
            "created": created,
            "attempts": 0,
            "reason": reason,
        }
        with writing(self._engine) as connection:
            connection.execute(insert(jobs), values)
        return JobRecord(**values)  # type: ignore[arg-type]

    def update(self, job_id: str, **changes: Unpack[JobChanges]) -> JobRecord:
        """The job with `changes` made. Raises JobNotFound."""
        with writing(self._engine) as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changes))
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        return _record(row, job_id)

    def get(self, job_id: str) -> JobRecord:
        """One job. Raises JobNotFound."""
        with reading(self._engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        return _record(row, job_id)

    def list(self, profile: str | None = None, limit: int = 100, after: str | None = None) -> builtins.list[JobRecord]:
        """The latest jobs, newest first; `after` is the id of the last one already seen."""
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(limit)
        if profile is not None:
            query = query.where(jobs.c.profile == profile)
        if after is not None:
            query = query.where(jobs.c.seq < select(jobs.c.seq).where(jobs.c.id == after).scalar_subquery())
        with reading(self._engine) as connection:
            return [_record(row, "") for row in connection.execute(query).mappings()]

    def unfinished(self) -> builtins.list[JobRecord]:
        """Jobs that are queued, running or paused, oldest first."""
        query = select(jobs).where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.seq)
        with reading(self._engine) as connection:
            return [_record(row, "") for row in connection.execute(query).mappings()]

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs by status; a status without jobs is left out."""
        query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
        with reading(self._engine) as connection:
            return {status: count for status, count in connection.execute(query)}

    def summaries(self) -> builtins.list[JobSummary]:
        """Every job in few words, oldest first, at one moment."""
        at = func.coalesce(jobs.c.finished, jobs.c.created)
        size = stored_bytes(jobs.c.error, jobs.c.spec, jobs.c.result, jobs.c.verdict)
        columns = (jobs.c.id, jobs.c.profile, jobs.c.status, at.label("at"), jobs.c.version, size.label("bytes"))
        with reading(self._engine) as connection:
            return [JobSummary(**row) for row in connection.execute(select(*columns).order_by(jobs.c.seq)).mappings()]

    def delete(self, job_id: str) -> None:
        """The record of the job, which has ended, is gone. Raises JobNotFound where no such job has."""
        ended = delete(jobs).where(jobs.c.id == job_id, jobs.c.status.not_in(UNFINISHED))
        with writing(self._engine) as connection:
            if not connection.execute(ended).rowcount:
                raise JobNotFound(f"there is no job {job_id!r} that has ended")


def _record(row: RowMapping | None, job_id: str) -> JobRecord:
    if row is None:
        raise JobNotFound(f"there is no job {job_id!r}")
    return JobRecord(**{name: value for name, value in row.items() if name != "seq"})
