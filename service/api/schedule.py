"""Scheduled runs: the outcome of each, and the reason for it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.fields import ListQuery, Reply
from service.db.records import RunOutcome

router = APIRouter(tags=["jobs"])


class ScheduledRunBody(Reply):
    """One scheduled run."""

    profile: str
    scheduled: datetime
    decided: datetime = Field(description="Time at which the outcome was recorded.")
    outcome: RunOutcome = Field(
        description="`waiting` for the device to be idle; `missed`: its window passed, and it is made up, if at all, "
        "when the device is idle; `skipped`: nothing to learn; `ran` as the job `job_id`."
    )
    reason: str = Field(description="Reason for the outcome, in one sentence.")
    job_id: str | None


class ScheduledRunPage(Reply):
    """The latest scheduled runs, newest first."""

    runs: list[ScheduledRunBody]


class CyclePage(Reply):
    """The latest scheduled runs, newest first, under their earlier name."""

    cycles: list[ScheduledRunBody]


@router.get("/schedule/runs")
def list_runs(query: Annotated[ListQuery, Query()], daemon: DaemonDep) -> ScheduledRunPage:
    """List the latest scheduled runs, newest first, each with its outcome and the reason."""
    return ScheduledRunPage.model_validate({"runs": daemon.db.scheduled_runs.list(query.profile, query.limit)})


@router.get("/cycles", deprecated=True)
def list_cycles(query: Annotated[ListQuery, Query()], daemon: DaemonDep) -> CyclePage:
    """List scheduled runs under the earlier name of GET /schedule/runs."""
    return CyclePage(cycles=list_runs(query, daemon).runs)
