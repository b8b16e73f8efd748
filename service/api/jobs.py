"""Personalization cycles: begun, watched, paused, cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from pydantic import Field
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.errors import ascii_json, documented
from service.api.fields import Body, Id, Profile, version_label
from service.api.queries import AdaptQuery, PageQuery
from service.api.schemas import JsonObject, Reply, VersionLabel, finite
from service.daemon import Daemon
from service.db import DEFAULT_PROFILE, JobRecord, JobStatus, JobTrigger
from service.worker.memory_limit import LimitKind

router = APIRouter(prefix="/jobs", tags=["jobs"])

LOOK_EVERY_S = 0.5
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `progress` (one per step), `job` (a JobBody whenever it has changed); "
        "the stream ends when the job has.",
        "content": {"text/event-stream": {}},
    }
}


class JobRequest(Body):
    """Adapt now."""

    profile: Profile = DEFAULT_PROFILE
    trigger: Literal["manual", "cli"] = "manual"


class PauseBody(Reply):
    """How often somebody held a worker back, and for how long all together."""

    count: int
    seconds: float


class JobSpecBody(Reply):
    """The input of a job: how much feedback, which versions, which settings; neither feedback ids nor paths."""

    train: int | None = Field(default=None, description="Examples to learn.")
    heldout: int | None = Field(default=None, description="Examples to judge by.")
    seen: int | None = Field(default=None, description="Examples there were.")
    dropped: dict[str, int] | None = Field(default=None, description="Examples left out, by reason.")
    active_version: VersionLabel | None = Field(default=None, description="In use when the job began.")
    parent_version: VersionLabel | None = Field(
        default=None, description="The incumbent: judged against, gone back to."
    )
    base_model: str | None = Field(default=None, description="Its name; of one installed from a path, the last part.")
    base_model_revision: str | None = None
    model_sha256: str | None = None
    dtype: str | None = None
    budget_bytes: int | None = None
    threads: int | None = None
    seed: int | None = None
    memory_limit: LimitKind | None = Field(default=None, description="What held the worker to its budget.")
    lars: JsonObject | None = None
    training: JsonObject | None = None
    plan: JsonObject | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The body of a job record's `spec`; a key without a field here is left out."""
        values = {name: spec[name] for name in cls.model_fields if name in spec}
        if "seen" in values:
            values["seen"] = len(values["seen"])
        if "dropped" in values:
            values["dropped"] = Counter(example["reason"] for example in values["dropped"])
        if "base_model" in values and PurePath(values["base_model"]).is_absolute():
            values["base_model"] = PurePath(values["base_model"]).name
        labels = {name: version_label(spec[name]) for name in ("active_version", "parent_version") if name in spec}
        return cls.model_validate(values | labels)


class JobBody(Reply):
    """One personalization cycle."""

    id: str
    profile: str
    trigger: JobTrigger
    status: JobStatus
    created: datetime
    started: datetime | None
    finished: datetime | None
    attempts: int
    error: str | None = Field(description="In words: why it failed, was rejected or cancelled.")
    spec: JobSpecBody | None
    result: JsonObject | None
    verdict: JsonObject | None
    version: VersionLabel | None = Field(description="The adapter it published; null if none.")
    budget_bytes: int | None
    peak_bytes: int | None
    reason: str | None = Field(description="In words: why there is such a job.")
    pauses: dict[str, PauseBody] | None = Field(description="Who held its worker back: how often, how long.")

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """The body of `record`."""
        label = None if record.version is None else version_label(record.version)
        spec = None if record.spec is None else JobSpecBody.of(record.spec)
        return cls.model_validate({**vars(record), "version": label, "spec": spec})


class PlanBody(Reply):
    """One way to train, and what it takes."""

    plan: JsonObject = Field(description="Its levers: micro_batch, prompt_chunk, loss_chunk, ...")
    estimate: dict[str, int] = Field(description="Predicted bytes, term by term.")
    predicted_peak_bytes: int
    least_budget_bytes: int = Field(
        description="What the budget must leave for training, that this plan is chosen: its peak and a margin."
    )
    step_seconds: float = Field(description="Time of a step, by what its pieces took when they were measured here.")
    relative_time: float = Field(description="Time of a step, as a multiple of the fastest plan's.")


class JobPlan(Reply):
    """What a job would do with the feedback as it is."""

    profile: str
    budget_bytes: int | None
    chosen: PlanBody | None = Field(description="Null where no plan fits the budget.")
    error: str | None = Field(description="Why no plan fits, and what budget would do.")
    ladder: list[PlanBody] = Field(description="The plans worth having, fastest first, each smaller than those before.")


class JobPage(Reply):
    """Jobs, newest first."""

    jobs: list[JobBody]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class JobProgress(Reply):
    """One record per step that the worker reported."""

    progress: list[JsonObject]


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
