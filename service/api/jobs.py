"""Adaptation jobs: start, list, follow, pause, resume and cancel."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath
from statistics import median
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.errors import Responses, answers, ascii_json, documented
from service.api.fields import (
    Body,
    Flag,
    Id,
    JsonObject,
    Page,
    PageQuery,
    ProfileQuery,
    Reply,
    VersionLabel,
    finite,
    next_page,
    version_label,
)
from service.daemon import Daemon
from service.db.records import JobRecord, JobStatus, JobTrigger
from service.worker.memory_limit import LimitKind

router = APIRouter(prefix="/jobs", tags=["jobs"])

POLL_S = 0.5
PACED_STEPS = 8  # by which the time that is left is told
EVENTS = answers(
    "Server-sent events: `progress` (one per step), `job` (a JobBody after each change); the stream ends with the job.",
    "text/event-stream",
)


class AdaptQuery(Body):
    """Options of POST /jobs."""

    dry_run: Flag = Field(default=False, description="Answer with the plan and its predicted peak; start nothing.")


class JobRequest(ProfileQuery):
    """The profile to adapt now."""

    trigger: Literal["manual", "cli"] = "manual"


class PauseBody(Reply):
    """Number and total duration of a worker's pauses."""

    count: int
    seconds: float


def _by_reason(dropped: list[Mapping[str, Any]]) -> dict[str, int]:
    return Counter(example["reason"] for example in dropped)


def _without_folder(base_model: str) -> str:
    return PurePath(base_model).name if PurePath(base_model).is_absolute() else base_model


Label = Annotated[VersionLabel | None, BeforeValidator(version_label)]  # null in the record is the base model


class JobSpecBody(Reply):
    """Input of a job: number of examples, versions, settings; neither feedback ids nor paths."""

    train: int | None = Field(default=None, description="Examples to learn.")
    heldout: int | None = Field(default=None, description="Examples to evaluate on.")
    seen: Annotated[int, BeforeValidator(len)] | None = Field(default=None, description="Examples before curation.")
    dropped: Annotated[dict[str, int], BeforeValidator(_by_reason)] | None = Field(
        default=None, description="Examples left out, by reason."
    )
    masked: Annotated[dict[str, int], BeforeValidator(_by_reason)] | None = Field(
        default=None, description="Examples learned without the secrets in them, by reason."
    )
    active_version: Label = Field(default=None, description="Active version when the job started.")
    parent_version: Label = Field(default=None, description="The incumbent: the version to compare with and restore.")
    base_model: Annotated[str, BeforeValidator(_without_folder)] | None = Field(
        default=None, description="Name of the base model; of one installed from a path, the last part."
    )
    base_model_revision: str | None = None
    model_sha256: str | None = None
    dtype: str | None = None
    budget_bytes: int | None = None
    threads: int | None = None
    seed: int | None = None
    memory_limit: LimitKind | None = Field(default=None, description="What enforces the worker's memory budget.")
    runner: str | None = Field(default=None, description="Machine that trained it: `local`, or one reached by ssh.")
    not_there: str | None = Field(default=None, description="Why that is not the one of `training.runner`.")
    lars: JsonObject | None = None
    training: JsonObject | None = None
    plan: JsonObject | None = None


class JobState(Reply):
    """How far an unfinished job is."""

    phase: Literal["preparing", "training", "judging", "publishing"]
    step: int | None = Field(description="Optimizer steps taken; null before the first.")
    steps: int | None = Field(description="Steps in all, as far as it is known yet.")
    seconds_left: float | None = Field(description="Of the training, at the pace of its last steps; null if unknown.")
    waiting_for: list[str] = Field(description="Reasons for which the worker is paused; empty while it gets on.")
    predicted_peak_bytes: int | None = Field(description="Predicted peak memory; null before it is planned.")


class JobBody(Reply):
    """One adaptation job."""

    id: str
    profile: str
    trigger: JobTrigger
    status: JobStatus
    created: datetime
    started: datetime | None
    finished: datetime | None
    attempts: int
    error: str | None = Field(description="Reason why it failed, was rejected or was cancelled.")
    spec: JobSpecBody | None
    result: JsonObject | None
    verdict: JsonObject | None
    version: VersionLabel | None = Field(description="The adapter version it published; null if none.")
    budget_bytes: int | None
    peak_bytes: int | None
    reason: str | None = Field(description="Reason why the job was started.")
    pauses: dict[str, PauseBody] | None = Field(description="Pauses of the worker by reason.")
    state: JobState | None = Field(default=None, description="Of the job that runs; null of others and in events.")


class PlanBody(Reply):
    """A training plan and its predicted costs."""

    plan: JsonObject = Field(description="Settings of the plan: micro_batch, prompt_chunk, loss_chunk, ...")
    estimate: dict[str, int] = Field(description="Predicted bytes by term.")
    predicted_peak_bytes: int
    least_budget_bytes: int = Field(description="Smallest budget for which this plan is chosen: its peak and a margin.")
    step_seconds: float = Field(description="Predicted time of a step, from times measured on this device.")
    relative_time: float = Field(description="Time of a step as a multiple of the fastest plan's.")


class JobPlan(Reply):
    """The plan of a job on the current feedback."""

    profile: str
    budget_bytes: int | None
    chosen: PlanBody | None = Field(description="Null where no plan fits the budget.")
    error: str | None = Field(description="Reason why no plan fits, and the budget needed.")
    ladder: list[PlanBody] = Field(description="The useful plans, fastest first, each smaller than the one before.")


class JobPage(Page):
    """Jobs, newest first."""

    jobs: list[JobBody]


class ProgressQuery(Body):
    """Which records are wanted."""

    skip: int = Field(default=0, ge=0, description="Number of first records to leave out, that the client has.")


class JobProgress(Reply):
    """Progress that the worker reported, one record per step."""

    progress: list[JsonObject]


PLANNED: Responses = {200: {"model": JobPlan, "description": "With `dry_run`: the plan."}}


@router.post("", status_code=202, response_model=JobBody, responses=documented(409, 503, 507) | PLANNED)
def adapt(
    daemon: DaemonDep, query: Annotated[AdaptQuery, Query()], body: JobRequest | None = None
) -> JobBody | Response:
    """Start a job that learns from the profile's feedback. With `dry_run` return its plan and start nothing."""
    wanted = body or JobRequest()
    if query.dry_run:
        plan = JobPlan.model_validate({"profile": wanted.profile, **daemon.supervisor.plan(wanted.profile)})
        return Response(plan.model_dump_json(), media_type="application/json")
    return JobBody.model_validate(daemon.adapt(wanted.profile, wanted.trigger))


@router.get("")
def list_jobs(query: Annotated[PageQuery, Query()], daemon: DaemonDep) -> JobPage:
    """List jobs, newest first."""
    records = daemon.db.jobs.list(query.profile, query.limit, query.after)
    jobs = [_body(record, daemon) for record in records]
    return JobPage(jobs=jobs, next=next_page(records, query.limit))


@router.get("/{job_id}", responses=documented(404))
def get(job_id: Id, daemon: DaemonDep) -> JobBody:
    """Return one job."""
    return _body(daemon.db.jobs.get(job_id), daemon)


@router.get("/{job_id}/progress", responses=documented(404))
def progress(job_id: Id, query: Annotated[ProgressQuery, Query()], daemon: DaemonDep) -> JobProgress:
    """Return the progress that the worker has reported so far."""
    return JobProgress(progress=daemon.supervisor.progress(job_id)[query.skip :])


@router.post("/{job_id}/pause", responses=documented(404, 409))
def pause(job_id: Id, daemon: DaemonDep) -> JobBody:
    """Pause the job until it is resumed."""
    return JobBody.model_validate(daemon.supervisor.pause(job_id))


@router.post("/{job_id}/resume", responses=documented(404, 409))
def resume(job_id: Id, daemon: DaemonDep) -> JobBody:
    """Resume the paused job."""
    return JobBody.model_validate(daemon.supervisor.resume(job_id))


@router.post("/{job_id}/cancel", responses=documented(404, 409))
def cancel(job_id: Id, daemon: DaemonDep) -> JobBody:
    """Cancel the job; the active adapter stays active."""
    return JobBody.model_validate(daemon.supervisor.cancel(job_id))


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=EVENTS | documented(404))
async def events(job_id: Id, daemon: DaemonDep) -> EventSourceResponse:
    """Stream the job's progress."""
    await run_in_threadpool(daemon.db.jobs.get, job_id)
    return EventSourceResponse(_follow(daemon, job_id))


def _body(job: JobRecord, daemon: Daemon) -> JobBody:
    body = JobBody.model_validate(job)
    return body.model_copy(update={"state": job_state(job.id, daemon)}) if job.id == daemon.supervisor.current else body


def job_state(job_id: str, daemon: Daemon) -> JobState:
    """Return how far the job that runs is."""
    lines, plan = daemon.supervisor.progress(job_id), daemon.supervisor.planned(job_id)
    last = lines[-1] if lines else {}
    phases: dict[Any, Any] = {None: "preparing", "training": "training", "judging": "judging", "done": "publishing"}
    times = [line["elapsed_s"] for line in lines[-PACED_STEPS:] if "elapsed_s" in line]
    paces = [after - before for before, after in pairwise(times)]
    is_training = last.get("phase") == "training" and paces
    return JobState(
        phase=phases[last.get("phase")],
        step=last.get("step"),
        steps=last.get("steps"),
        seconds_left=max(0, last["steps"] - last["step"]) * median(paces) if is_training else None,
        waiting_for=daemon.idle_monitor.waiting_for,
        predicted_peak_bytes=plan.get("predicted_peak_bytes"),
    )


async def _follow(daemon: Daemon, job_id: str) -> AsyncIterator[dict[str, str]]:
    sent, last = 0, ""
    while True:
        job = await run_in_threadpool(daemon.db.jobs.get, job_id)  # before the progress: the end is sent last
        lines = await run_in_threadpool(daemon.supervisor.progress, job_id)
        for line in lines[sent:]:
            yield {"event": "progress", "data": ascii_json(finite(line))}
        sent = len(lines)
        if (data := JobBody.model_validate(job).model_dump_json()) != last:
            yield {"event": "job", "data": data}
            last = data
        if job.finished is not None:
            return
        await asyncio.sleep(POLL_S)
