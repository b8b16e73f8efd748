"""OpenAI's fine-tuning: jobs in its shape, the nightly ones among them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.concurrency import run_in_threadpool

from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep
from service.api.errors import FieldConflict, FieldNotFound, InvalidField, documented
from service.api.fields import MAX_PAGE_ROWS, Body, Id, JsonObject, Number, Profile, Reply, Text, Whole, finite
from service.api.jobs import job_state
from service.api.model_names import model_names
from service.api.openai.files import seconds_of
from service.daemon import Daemon
from service.db.errors import FileNotFound
from service.db.records import JobRecord, JobStatus

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["openai"])

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATUSES: Mapping[JobStatus, Status] = {
    "queued": "queued",
    "running": "running",
    "paused": "running",
    "succeeded": "succeeded",
    "rejected": "failed",
    "failed": "failed",
    "cancelled": "cancelled",
}
ERROR_CODES = {"rejected": "candidate_rejected", "failed": "job_failed"}
NO_VALIDATION = "is not supported; the daemon itself holds back some of the examples to compare by"
Item = TypeVar("Item")


def _no_validation_file(value: Any) -> Any:
    if value is not None:
        raise ValueError(NO_VALIDATION)
    return value


class Hyperparameters(Body):
    """Settings of training for this job alone; `auto` is the daemon's own."""

    n_epochs: Literal["auto"] | Annotated[Whole, Field(ge=1, le=1000)] = Field(
        default="auto", description="How often each example is read at most (`training.epochs`)."
    )
    batch_size: Literal["auto"] | Annotated[Whole, Field(ge=1, le=4096)] = Field(
        default="auto", description="Examples in a batch (`training.batch_size`)."
    )
    learning_rate_multiplier: Literal["auto"] | Annotated[Number, Field(gt=0, le=100)] = Field(
        default="auto", description="Factor of `training.learning_rate`."
    )


class Supervised(Body):
    """The only method: to learn the desired replies."""

    hyperparameters: Hyperparameters | None = None


class Method(Body):
    """How it is learned. Of preferences, the preferred reply is learned."""

    type: Literal["supervised"]
    supervised: Supervised | None = None


class FineTuningRequest(Body):
    """The file to learn from, and for whom."""

    model: Text = Field(
        min_length=1,
        max_length=200,
        description="A profile: its adapter learns. `base`: the profile `suffix`, or `default`.",
    )
    training_file: Id = Field(description="Id of the uploaded file.")
    suffix: Profile | None = Field(default=None, description="With a base model: the profile that learns.")
    hyperparameters: Hyperparameters | None = Field(default=None, description="As in `method`, which comes first.")
    method: Method | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = None
    validation_file: Annotated[None, BeforeValidator(_no_validation_file), WithJsonSchema({"type": "null"})] = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = Field(default=None, description="Not supported.")
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = Field(default=None, description="Your own.")

    @property
    def asked(self) -> Hyperparameters:
        """The hyperparameters, wherever they were given."""
        supervised = self.method.supervised if self.method else None
        return (supervised and supervised.hyperparameters) or self.hyperparameters or Hyperparameters()


class JobsQuery(Body):
    """One page of a list."""

    after: Id | None = Field(default=None, description="Id of the last item of the page before.")
    limit: int = Field(default=20, ge=1, le=MAX_PAGE_ROWS, description="Maximum number of items.")


class JobError(Reply):
    """Why a job has failed."""

    code: str = Field(description="`candidate_rejected`: the gate kept the version in use. `job_failed`: any other.")
    message: str
    param: str | None = None


class FineTuningJob(Reply):
    """A job in OpenAI's shape; `GET /jobs/{id}` has the daemon's own."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None = Field(description="The version that it published, such as `default@v3`.")
    organization_id: str = "local"
    status: Status = Field(description="`running`: also while it is paused.")
    training_file: str = Field(description="Empty for a job that learned the feedback as it was.")
    validation_file: None = None
    result_files: tuple[str, ...] = ()
    trained_tokens: None = None
    hyperparameters: JsonObject
    method: JsonObject
    seed: int
    suffix: str | None
    metadata: dict[str, str] | None
    integrations: tuple[str, ...] = ()
    error: JobError | None


class JobEvent(Reply):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"] = "info"
    message: str
    type: Literal["message", "metrics"] = "message"
    data: JsonObject | None = None


class Checkpoint(Reply):
    """A checkpoint that replies; there are none."""

    id: str


class ItemPage(Reply, Generic[Item]):
    """One page of a list, newest first."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


@router.post("", responses=documented(404, 409, 503, 507))
async def create(body: FineTuningRequest, daemon: DaemonDep) -> FineTuningJob:
    """Make the file's rows feedback of a profile, and start a job that learns all of the profile's feedback."""
    async with daemon.importing:
        return await run_in_threadpool(_create, body, daemon)


@router.get("")
def list_jobs(query: Annotated[JobsQuery, Query()], daemon: DaemonDep) -> ItemPage[FineTuningJob]:
    """List jobs, newest first; also those that were started otherwise."""
    records = daemon.db.jobs.list(None, query.limit + 1, query.after)
    data = [_body(record, daemon) for record in records[: query.limit]]
    return ItemPage[FineTuningJob](data=data, has_more=len(records) > query.limit)


@router.get("/{job_id}", responses=documented(404))
def get(job_id: Id, daemon: DaemonDep) -> FineTuningJob:
    """Return one job."""
    return _body(daemon.db.jobs.get(job_id), daemon)


@router.post("/{job_id}/cancel", responses=documented(404, 409))
def cancel(job_id: Id, daemon: DaemonDep) -> FineTuningJob:
    """Cancel the job; the file's rows stay feedback."""
    return _body(daemon.supervisor.cancel(job_id), daemon)


@router.post("/{job_id}/pause", responses=documented(404, 409))
def pause(job_id: Id, daemon: DaemonDep) -> FineTuningJob:
    """Pause the job until it is resumed."""
    return _body(daemon.supervisor.pause(job_id), daemon)


@router.post("/{job_id}/resume", responses=documented(404, 409))
def resume(job_id: Id, daemon: DaemonDep) -> FineTuningJob:
    """Resume the paused job."""
    return _body(daemon.supervisor.resume(job_id), daemon)


@router.get("/{job_id}/events", responses=documented(404))
def list_events(job_id: Id, query: Annotated[JobsQuery, Query()], daemon: DaemonDep) -> ItemPage[JobEvent]:
    """List what happened to the job, newest first."""
    events = _events(daemon.db.jobs.get(job_id), daemon.supervisor.progress(job_id))[::-1]
    ids = [event.id for event in events]
    first = ids.index(query.after) + 1 if query.after in ids else 0
    page = events[first : first + query.limit]
    return ItemPage[JobEvent](data=page, has_more=first + query.limit < len(events))


@router.get("/{job_id}/checkpoints", responses=documented(404))
def list_checkpoints(job_id: Id, query: Annotated[JobsQuery, Query()], daemon: DaemonDep) -> ItemPage[Checkpoint]:
    """List the checkpoints that reply: none, as only what the gate has accepted does."""
    daemon.db.jobs.get(job_id)
    return ItemPage[Checkpoint](data=[], has_more=False)


def _create(body: FineTuningRequest, daemon: Daemon) -> FineTuningJob:
    profile = _profile(body, daemon)
    changes = _training(body, daemon)
    try:
        file = daemon.db.files.get(body.training_file)
    except FileNotFound as error:
        raise FieldNotFound("training_file", f"{error}; upload it first (POST /v1/files)") from error
    if file.profile not in (None, profile):
        raise FieldConflict("training_file", f"has become feedback of the profile {file.profile}; upload it again")
    daemon.require_free(profile)
    daemon.db.files.take_up(file.id, profile)
    own = body.model_dump(include={"model", "training_file", "suffix", "metadata"})
    own |= {"hyperparameters": body.asked.model_dump(), "training": changes}
    return _body(daemon.adapt(profile, "manual", own), daemon)


def _profile(body: FineTuningRequest, daemon: Daemon) -> str:
    """Return the profile that learns. Raises AdapterNotFound, ModelLoading, InvalidField."""
    adapter = model_names(daemon).resolve(body.model)
    if isinstance(adapter.version, int):
        reason = f"names one version, and a job goes on from the one in use; give {adapter.profile!a}"
        raise InvalidField("model", reason)
    if body.suffix in (None, adapter.profile):
        return adapter.profile
    if adapter.version is not None:
        reason = f'names another profile than model; leave it out, or give "base" as the model for {body.suffix!a}'
        raise InvalidField("suffix", reason)
    return str(body.suffix)


def _training(body: FineTuningRequest, daemon: Daemon) -> dict[str, Any]:
    """Return the settings of training that the request changes. Raises InvalidField."""
    asked, settings = body.asked, daemon.settings.training
    changes: dict[str, Any] = {} if body.seed is None else {"seed": body.seed}
    if asked.n_epochs != "auto":
        changes |= {"epochs": asked.n_epochs, "steps": 0}  # by which the number of steps follows
    if asked.batch_size != "auto":
        changes["batch_size"] = asked.batch_size
    if asked.learning_rate_multiplier != "auto":
        changes["learning_rate"] = settings.learning_rate * asked.learning_rate_multiplier
        if changes["learning_rate"] > 1:
            raise InvalidField("learning_rate_multiplier", "makes the learning rate larger than 1; give a smaller one")
    return changes


def _body(job: JobRecord, daemon: Daemon) -> FineTuningJob:
    asked, training = job.fine_tuning or {}, (job.spec or {}).get("training") or {}
    hyperparameters = asked.get("hyperparameters") or Hyperparameters().model_dump()
    state = job_state(job.id, daemon) if job.id == daemon.supervisor.current else None
    left = state.seconds_left if state else None
    code = ERROR_CODES.get(job.status)
    return FineTuningJob(
        id=job.id,
        created_at=seconds_of(job.created),
        finished_at=None if job.finished is None else seconds_of(job.finished),
        estimated_finish=None if left is None else int(time.time() + left),
        model=asked.get("model", job.profile),
        fine_tuned_model=None if job.version is None else AdapterName(job.profile, job.version).label,
        status=STATUSES[job.status],
        training_file=asked.get("training_file", ""),
        hyperparameters=hyperparameters,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        seed=training.get("seed", asked.get("training", {}).get("seed", daemon.settings.training.seed)),
        error=JobError(code=code, message=job.error or "it failed") if code else None,
        suffix=asked.get("suffix"),
        metadata=asked.get("metadata"),
    )


def _events(job: JobRecord, progress: Sequence[Mapping[str, Any]]) -> list[JobEvent]:
    """Return what happened to the job, oldest first."""
    rows: list[dict[str, Any]] = [{"created_at": seconds_of(job.created), "message": f"Created: {job.reason}"}]
    if job.started is not None:
        rows.append({"created_at": seconds_of(job.started), "message": "Started"})
    for line in progress:
        data = finite(dict(line))
        message = f"Step {line.get('step')} of {line.get('steps')}: {line.get('phase')}"
        if "loss" in line:
            message += f", training loss {line['loss']}"
            data |= {"train_loss": data["loss"]}
        rows.append({"created_at": int(line.get("time", 0)), "message": message, "type": "metrics", "data": data})
    if job.finished is not None:
        failed = job.status != "succeeded"
        message = job.error or (f"Succeeded: {AdapterName(job.profile, job.version).label} replies")
        level = "error" if failed else "info"
        rows.append({"created_at": seconds_of(job.finished), "message": message, "level": level})
    return [JobEvent(id=f"{job.id}-{number}", **row) for number, row in enumerate(rows)]
