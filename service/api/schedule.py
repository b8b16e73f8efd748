"""The outcome of each scheduled run, and the reason for it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.queries import ScheduledRunsQuery
from service.api.schemas import Reply
from service.daemon import Daemon
from service.db import RunOutcome

router = APIRouter(tags=["jobs"])


class ScheduledRunBody(Reply):
    """One scheduled moment and its outcome."""

    profile: str
    scheduled: datetime
    decided: datetime = Field(description="When that was known.")
    outcome: RunOutcome = Field(
        description="`waiting` for a good moment; `missed`: its window has passed, and it is made up, if at all, when "
        "the device has been left alone; `skipped`: there was nothing to learn; `ran` as the job `job_id`."
    )
    reason: str = Field(description="In words: why it ran, or why not.")
    job_id: str | None


class ScheduledRunPage(Reply):
    """The latest scheduled runs, newest first."""

    runs: list[ScheduledRunBody]


class CyclePage(Reply):
    """The latest scheduled runs, newest first, under their earlier name."""

    cycles: list[ScheduledRunBody]


@router.get("/schedule/runs")
def list_runs(query: Annotated[ScheduledRunsQuery, Query()], daemon: DaemonDep) -> ScheduledRunPage:
    """The latest scheduled runs, newest first: whether each ran, and why or why not."""
    return ScheduledRunPage(runs=_runs(query, daemon))


@router.get("/cycles", deprecated=True)
def list_cycles(query: Annotated[ScheduledRunsQuery, Query()], daemon: DaemonDep) -> CyclePage:
    """The earlier name of GET /schedule/runs."""
    return CyclePage(cycles=_runs(query, daemon))


def _runs(query: ScheduledRunsQuery, daemon: Daemon) -> list[ScheduledRunBody]:
    found = daemon.db.scheduled_runs.list(query.profile, query.limit)
    return [ScheduledRunBody.model_validate(asdict(run)) for run in found]
