"""Jobs of personalization: queued, running, ended."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from service.db.base import Records
from service.db.engine import now_of, reading, stored_bytes, writing
from service.db.errors import JobNotFound
from service.db.records import JUDGED, UNFINISHED, JobRecord, JobStatus, JobSummary, JobTrigger, new_id
from service.db.tables import jobs


class Jobs(Records[JobRecord]):
    """The jobs of the database behind `engine`."""

    table, record, not_found = jobs, JobRecord, JobNotFound

    def add(
        self,
        profile: str,
        trigger: JobTrigger,
        reason: str | None = None,
        fine_tuning: Mapping[str, Any] | None = None,
    ) -> JobRecord:
        """Store a queued job; `reason` says why it runs."""
        created = now_of(self._engine)
        job = JobRecord(
            new_id("j", created), profile, trigger, "queued", created, reason=reason, fine_tuning=fine_tuning
        )
        with writing(self._engine) as connection:
            connection.execute(insert(jobs), vars(job))
        return job

    def update(self, job_id: str, **changes: Any) -> JobRecord:
        """Set the fields in `changes` and return the job. Raises JobNotFound."""
        with writing(self._engine) as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**changes))
            return self._get(connection, job_id)

    def list(self, profile: str | None = None, limit: int = 100, after: str | None = None) -> builtins.list[JobRecord]:
        """Return the latest jobs, newest first; `after` is the id of the last one already seen."""
        return self._latest(limit, after, *self._of(profile))

    def unfinished(self) -> builtins.list[JobRecord]:
        """Return the jobs that have not ended, oldest first."""
        return self._read(select(jobs).where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.seq))

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs by status; a status without jobs is left out."""
        query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
        with reading(self._engine) as connection:
            return {status: count for status, count in connection.execute(query)}

    def failed_in_a_row(self) -> int:
        """Return the number of jobs that failed since the last one that was judged, of the profile that has most."""
        judged = select(jobs.c.profile, func.max(jobs.c.seq).label("seq")).where(jobs.c.status.in_(JUDGED))
        last = judged.group_by(jobs.c.profile).subquery()
        query = (
            select(func.count())
            .select_from(jobs.outerjoin(last, jobs.c.profile == last.c.profile))
            .where(jobs.c.status == "failed", jobs.c.seq > func.coalesce(last.c.seq, 0))
            .group_by(jobs.c.profile)
        )
        with reading(self._engine) as connection:
            return max(connection.scalars(query), default=0)

    def summaries(self) -> builtins.list[JobSummary]:
        """Return a summary of every job, oldest first."""
        at = func.coalesce(jobs.c.finished, jobs.c.created)
        size = stored_bytes(jobs.c.error, jobs.c.spec, jobs.c.result, jobs.c.verdict)
        columns = (jobs.c.id, jobs.c.profile, jobs.c.status, at.label("at"), jobs.c.version, size.label("bytes"))
        with reading(self._engine) as connection:
            return [JobSummary(**row) for row in connection.execute(select(*columns).order_by(jobs.c.seq)).mappings()]

    def delete(self, job_id: str) -> None:
        """Delete the record of a job that has ended. Raises JobNotFound if there is no such job."""
        ended = delete(jobs).where(jobs.c.id == job_id, jobs.c.status.not_in(UNFINISHED))
        with writing(self._engine) as connection:
            if not connection.execute(ended).rowcount:
                raise JobNotFound(f"there is no job {job_id!r} that has ended")
