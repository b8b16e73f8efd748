"""Personalization cycles: begun, watched, paused, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.errors import ascii_json, documented
from service.api.fields import Id
from service.api.queries import AdaptQuery, PageQuery
from service.api.schemas import JobBody, JobPage, JobPlan, JobProgress, JobRequest, finite
from service.daemon import Daemon

router = APIRouter(prefix="/jobs", tags=["jobs"])

LOOK_EVERY_S = 0.5
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `progress` (one per step), `job` (a JobBody whenever it has changed); "
        "the stream ends when the job has.",
        "content": {"text/event-stream": {}},
    }
}


PLANNED: dict[int | str, dict[str, Any]] = {200: {"model": JobPlan, "description": "With `dry_run`: the plan."}}


@router.post("", status_code=202, response_model=JobBody, responses=documented(409, 503, 507) | PLANNED)
def adapt(
    daemon: DaemonDep, query: Annotated[AdaptQuery, Query()], body: JobRequest | None = None
) -> JobBody | Response:
    """A job that has begun: it learns from the profile's feedback. With `dry_run` nothing is begun."""
    asked = body or JobRequest()
    if query.dry_run:
        plan = JobPlan.model_validate({"profile": asked.profile, **daemon.supervisor.plan(asked.profile)})
        return Response(plan.model_dump_json(), media_type="application/json")
    return JobBody.of(daemon.adapt(asked.profile, asked.trigger))


@router.get("")
def list_jobs(query: Annotated[PageQuery, Query()], daemon: DaemonDep) -> JobPage:
    """The latest jobs, newest first."""
    records = daemon.db.jobs.list(query.profile, query.limit, query.after)
    following = records[-1].id if len(records) == query.limit else None
    return JobPage(jobs=[JobBody.of(record) for record in records], next=following)


@router.get("/{job_id}", responses=documented(404))
def get(job_id: Id, daemon: DaemonDep) -> JobBody:
    """One job."""
    return JobBody.of(daemon.db.jobs.get(job_id))


@router.get("/{job_id}/progress", responses=documented(404))
def progress(job_id: Id, daemon: DaemonDep) -> JobProgress:
    """What the worker has reported so far."""
    return JobProgress(progress=daemon.supervisor.progress(job_id))


@router.post("/{job_id}/pause", responses=documented(404, 409))
def pause(job_id: Id, daemon: DaemonDep) -> JobBody:
    """The job stands still until it is resumed."""
    return JobBody.of(daemon.supervisor.pause(job_id))


@router.post("/{job_id}/resume", responses=documented(404, 409))
def resume(job_id: Id, daemon: DaemonDep) -> JobBody:
    """The job goes on."""
    return JobBody.of(daemon.supervisor.resume(job_id))


@router.post("/{job_id}/cancel", responses=documented(404, 409))
def cancel(job_id: Id, daemon: DaemonDep) -> JobBody:
    """The job ends in a moment; the adapter in use stays as it is."""
    return JobBody.of(daemon.supervisor.cancel(job_id))


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=EVENTS | documented(404))
async def events(job_id: Id, daemon: DaemonDep) -> EventSourceResponse:
    """The job's progress as it comes."""
    await run_in_threadpool(daemon.db.jobs.get, job_id)
    return EventSourceResponse(_watch(daemon, job_id))


async def _watch(daemon: Daemon, job_id: str) -> AsyncIterator[dict[str, str]]:
    sent, last = 0, ""
    while True:
        job = await run_in_threadpool(daemon.db.jobs.get, job_id)  # before the progress: what ends it comes last
        lines = await run_in_threadpool(daemon.supervisor.progress, job_id)
        for line in lines[sent:]:
            yield {"event": "progress", "data": ascii_json(finite(line))}
        sent = len(lines)
        if (data := JobBody.of(job).model_dump_json()) != last:
            yield {"event": "job", "data": data}
            last = data
        if job.finished is not None:
            return
        await asyncio.sleep(LOOK_EVERY_S)
