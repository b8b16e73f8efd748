"""State of the daemon: GET /health, /ready, /info and /metrics."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from pydantic import Field
from starlette.responses import Response

from lars_agent.errors import LarsError, ModelLoading
from lars_agent.memory.measure import peak_rss_bytes, rss_bytes
from service.alarms import AlarmCode
from service.api.daemon_metrics import resident_bytes
from service.api.dependencies import DaemonDep
from service.api.errors import answers, documented
from service.api.fields import Reply, VersionLabel, version_label
from service.daemon import Daemon
from service.db.errors import DatabaseBusy
from service.process.version import package_version
from service.schedule.device import free_disk_bytes
from service.worker.memory_limit import LimitKind

log = structlog.get_logger(__name__)

router = APIRouter(tags=["operation"])

LOADING = "Loading model"
METRICS = answers("The metrics.", "text/plain", {"schema": {"type": "string"}})


class Health(Reply):
    """The daemon answers; `degraded` while an alarm is active."""

    status: Literal["ok", "degraded"] = "ok"
    alarms: list[AlarmCode] | None = Field(default=None, description="Active alarms, while degraded.")


class Ready(Reply):
    """The daemon and its database answer."""

    status: Literal["ok"] = "ok"


class ModelInfo(Reply):
    """The base model."""

    name: str
    reference: str
    revision: str | None
    sha256: str
    dtype: str


class MemoryInfo(Reply):
    """Memory of the daemon and the budget of training, bytes."""

    rss_bytes: int
    peak_bytes: int
    endpoint_bytes: int = Field(description="Resident memory of the engine process; 0 while the model is unloaded.")
    worker_bytes: int = Field(description="Resident memory of the training worker; 0 while none runs.")
    budget_bytes: int
    limit: LimitKind = Field(
        description="What enforces the budget: the kernel (`cgroup`), or the worker itself (`guard`)."
    )
    limit_reason: str | None = Field(description="Reason why the kernel does not enforce it.")


class ScheduleInfo(Reply):
    """Schedule of training."""

    enabled: bool
    cron: str
    next_run: datetime | None


class CheckInfo(Reply):
    """One idle check and its result."""

    name: str
    state: Literal["fine", "against", "unknown"]
    words: str = Field(validation_alias="message", description="The result as a message.")


class NightInfo(Reply):
    """Training at this moment, and the idle checks."""

    adapting: bool = Field(description="True while a worker is training.")
    words: str = Field(description="Reason for training or not training now, in one line.")
    checks: list[CheckInfo] = Field(description="Every idle check.")


class FeedbackCounts(Reply):
    """Number of rows of feedback."""

    total: int
    corrections: int
    liked: int
    disliked: int
    stated: int = Field(description="Taken from conversations.")


class ImportInfo(Reply):
    """How far an import of feedback is."""

    done: int = Field(description="Rows stored, which nobody sees before the last one is.")
    total: int


class Info(Reply):
    """State of the daemon."""

    version: str
    profile: str | None = Field(description="The profile that the token is bound to, which is all that is told of.")
    uptime_s: float
    model: ModelInfo | None = Field(description="Null until it is loaded.")
    loading: str | None = Field(description="What is being done to load the model; null once it is loaded.")
    loading_error: str | None = Field(description="Reason why the model cannot be loaded.")
    serving: dict[str, VersionLabel] = Field(description="The version in use, by profile.")
    problems: list[str] = Field(description="Messages of the active alarms.")
    notices: list[str] = Field(description="Messages of the last settings reload, if not every change took effect.")
    feedback: FeedbackCounts
    lessons: dict[str, int] = Field(description="Corrections, liked replies and stated facts, by profile.")
    interactions: int
    importing: ImportInfo | None = Field(description="Null while no feedback is imported.")
    memory: MemoryInfo
    free_disk_bytes: int | None = Field(description="Room on the disk of the data folder; null if unknown.")
    job: str | None = Field(description="The job that is running or paused.")
    schedule: ScheduleInfo
    night: NightInfo


@router.get("/health", response_model_exclude_none=True, responses=documented(503))
async def health(daemon: DaemonDep) -> Health:
    """Answer without waiting or token; 503 while the model loads. GET /info has the messages of the alarms."""
    _require_model(daemon)
    alarms = sorted({alarm.code for alarm in daemon.problems()})
    return Health(status="degraded", alarms=alarms) if alarms else Health()


@router.get("/ready", responses=documented(503))
def ready(daemon: DaemonDep) -> Ready:
    """Check that the model and the database answer. Needs no token."""
    _require_model(daemon)
    try:
        daemon.db.interactions.count()
    except LarsError as error:
        log.error("database_not_ready", error=str(error))
        raise DatabaseBusy("the database does not answer; the daemon's log says why") from error
    return Ready()


@router.get("/info")
def info(daemon: DaemonDep) -> Info:
    """Return the state of the daemon."""
    schedule, served = daemon.settings.schedule, daemon.model_host.serving()
    is_owner, found = daemon.profile is None, daemon.db.imports.progress
    profiles = daemon.profiles.names() if served else []  # none while the model loads
    installed, limit = daemon.model_host.installed, daemon.worker.memory_limit
    daemon.idle_monitor.refresh()
    adapting = daemon.worker.pid is not None and not daemon.worker.pause_reasons
    message, checks = daemon.idle_monitor.message_for(daemon.profile), daemon.idle_monitor.decision.checks
    night = NightInfo.model_validate({"adapting": adapting, "words": message, "checks": checks})
    memory = MemoryInfo(
        endpoint_bytes=_resident_bytes(daemon.model_host.endpoint_pid),
        worker_bytes=_resident_bytes(daemon.worker.pid),
        rss_bytes=rss_bytes(),
        peak_bytes=peak_rss_bytes(),
        budget_bytes=daemon.settings.memory.budget_bytes,
        limit=limit.kind,
        limit_reason=limit.reason,
    )
    return Info(
        version=package_version(),
        profile=daemon.profile,
        uptime_s=daemon.uptime_s(),
        model=None if installed is None else ModelInfo(**vars(installed), dtype=daemon.settings.model.dtype),
        loading=daemon.model_host.loading,
        loading_error=daemon.model_host.loading_error if is_owner else None,
        serving={name: version_label(served.get(name)) for name in profiles},
        problems=[alarm.message for alarm in daemon.problems()],
        notices=list(daemon.notices) if is_owner else [],
        feedback=FeedbackCounts(**daemon.db.feedback.counts()),
        lessons=daemon.db.feedback.lessons(),
        interactions=daemon.db.interactions.count(),
        importing=ImportInfo(**vars(found)) if found is not None and is_owner else None,
        memory=memory,
        free_disk_bytes=free_disk_bytes(daemon.settings.data_dir),
        job=_job(daemon),
        schedule=ScheduleInfo(enabled=schedule.enabled, cron=schedule.cron, next_run=daemon.next_run()),
        night=night,
    )


@router.get("/metrics", response_class=Response, responses=METRICS | documented(503))
def metrics(daemon: DaemonDep) -> Response:
    """Return metrics in Prometheus's text format; no name, label or value contains personal data."""
    return Response(generate_latest(daemon.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _job(daemon: Daemon) -> str | None:
    """Return the job that is running or paused, if the caller may know of it."""
    current = daemon.supervisor.current
    return current if daemon.profile is None or current in {job.id for job in daemon.db.jobs.unfinished()} else None


def _require_model(daemon: Daemon) -> None:
    """Raise ModelLoading with nothing in it that is not for everybody, such as where the model was looked for."""
    try:
        daemon.model_host.require_model()
    except ModelLoading as error:
        failed = f"{LOADING}: it could not be loaded yet; GET /info says why"
        raise ModelLoading(failed if daemon.model_host.loading_error else LOADING) from error


def _resident_bytes(pid: int | None) -> int:
    return 0 if pid is None else resident_bytes(pid)
