"""Is it up, is it ready, and where does it stand."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

from fastapi import APIRouter

from lars_agent.memory.measure import peak_rss_bytes, rss_bytes
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import version_label
from service.api.schemas import (
    CheckInfo,
    FeedbackCounts,
    Health,
    Info,
    MemoryInfo,
    ModelInfo,
    NightInfo,
    Ready,
    ScheduleInfo,
)
from service.daemon import Daemon
from service.process.version import package_version

router = APIRouter(tags=["operation"])


@router.get("/health", response_model_exclude_none=True, responses=documented(503))
async def health(daemon: DaemonDep) -> Health:
    """It replies; 503 while the model loads. Needs no token, and waits for nothing. GET /info says what is wrong."""
    daemon.serving.require_model()
    alarms = sorted({problem.alarm for problem in daemon.problems()})
    return Health(status="degraded", alarms=alarms) if alarms else Health()


@router.get("/ready", responses=documented(503))
def ready(daemon: DaemonDep) -> Ready:
    """It replies, and its database answers. Needs no token."""
    daemon.serving.require_model()
    daemon.db.interactions.count()
    return Ready()


@router.get("/info")
def info(daemon: DaemonDep) -> Info:
    """Where the daemon stands."""
    settings, served = daemon.settings, daemon.serving.serving()
    profiles = daemon.profiles.names() if served else []  # none while the model loads
    return Info(
        version=package_version(),
        uptime_s=daemon.uptime_s(),
        model=_model(daemon),
        loading_error=daemon.serving.loading_error,
        serving={name: version_label(served.get(name)) for name in profiles},
        problems=[problem.words for problem in daemon.problems()],
        notices=list(daemon.notices),
        feedback=FeedbackCounts(**daemon.db.feedback.counts()),
        interactions=daemon.db.interactions.count(),
        memory=_memory(daemon),
        job=daemon.supervisor.current,
        schedule=ScheduleInfo(
            enabled=settings.schedule.enabled, cron=settings.schedule.cron, next_run=daemon.next_night()
        ),
        night=_night(daemon),
    )


def _night(daemon: Daemon) -> NightInfo:
    shift, worker = daemon.shift, daemon.worker
    shift.refresh()
    checks = [CheckInfo(**asdict(check)) for check in shift.decision.checks]
    return NightInfo(adapting=worker.pid is not None and not worker.holders, words=shift.words, checks=checks)


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


def _memory(daemon: Daemon) -> MemoryInfo:
    limit, endpoint = daemon.worker.memory_limit, daemon.serving.endpoint_pid
    return MemoryInfo(
        endpoint_bytes=0 if endpoint is None else _resident(endpoint),
        rss_bytes=rss_bytes(),
        peak_bytes=peak_rss_bytes(),
        budget_bytes=daemon.settings.memory.budget_bytes,
        limit=limit.kind,
        limit_reason=limit.reason,
    )


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return rss_bytes(pid)
    return 0  # it has just ended
