"""Is it up, is it ready, and where does it stand."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from lars_agent.memory.measure import peak_rss_bytes, rss_bytes
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import version_label
from service.api.schemas import Reply, VersionLabel
from service.daemon import Daemon

router = APIRouter(tags=["operation"])


class Health(Reply):
    """The daemon answers."""

    status: Literal["ok"] = "ok"


class ModelInfo(Reply):
    """The base model in use."""

    name: str
    reference: str
    revision: str | None
    sha256: str
    dtype: str


class MemoryInfo(Reply):
    """Memory of the daemon, and what training may use, bytes."""

    rss_bytes: int
    peak_bytes: int
    budget_bytes: int


class ScheduleInfo(Reply):
    """When it learns by itself."""

    enabled: bool
    cron: str
    next_run: datetime | None


class FeedbackCounts(Reply):
    """How much feedback there is."""

    total: int
    corrections: int
    liked: int
    disliked: int


class Info(Reply):
    """Where the daemon stands."""

    version: str
    uptime_s: float
    model: ModelInfo | None = Field(description="Null while none is loaded.")
    loading_error: str | None = Field(description="Why the model cannot be loaded, if so.")
    serving: dict[str, VersionLabel] = Field(description="The version that replies, by profile.")
    problems: list[str] = Field(description="What was wrong at the start, and what was done about it.")
    feedback: FeedbackCounts
    interactions: int
    memory: MemoryInfo
    job: str | None = Field(description="The job that runs or is paused.")
    schedule: ScheduleInfo


@router.get("/health", responses=documented(503))
async def health(daemon: DaemonDep) -> Health:
    """It replies; 503 while the model loads. Needs no token, and waits for nothing."""
    daemon.serving.require_engine()
    return Health()


@router.get("/ready", responses=documented(503))
def ready(daemon: DaemonDep) -> Health:
    """It replies, and its database answers. Needs no token."""
    daemon.serving.require_engine()
    daemon.db.interactions.count()
    return Health()


@router.get("/info")
def info(daemon: DaemonDep) -> Info:
    """Where the daemon stands."""
    settings = daemon.settings
    return Info(
        version=package_version(),
        uptime_s=daemon.uptime_s(),
        model=_model(daemon),
        loading_error=daemon.serving.loading_error,
        serving={name: version_label(number) for name, number in daemon.serving.serving().items()},
        problems=list(daemon.serving.problems),
        feedback=FeedbackCounts(**daemon.db.feedback.counts()),
        interactions=daemon.db.interactions.count(),
        memory=MemoryInfo(
            rss_bytes=rss_bytes(), peak_bytes=peak_rss_bytes(), budget_bytes=settings.memory.budget_bytes
        ),
        job=daemon.supervisor.current,
        schedule=ScheduleInfo(
            enabled=settings.schedule.enabled, cron=settings.schedule.cron, next_run=daemon.schedule.next_run()
        ),
    )


def _model(daemon: Daemon) -> ModelInfo | None:
    installed = daemon.serving.installed
    if installed is None:
        return None
    return ModelInfo(
        name=installed.name,
        reference=installed.reference,
        revision=installed.revision,
        sha256=installed.sha256,
        dtype=daemon.settings.model.dtype,
    )


def package_version() -> str:
    """The version that is installed; `source` where the code runs without being installed."""
    try:
        return version("lars-agent")
    except PackageNotFoundError:
        return "source"
