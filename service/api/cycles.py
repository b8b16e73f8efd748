"""What became of each scheduled moment, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import DaemonDep
from service.api.queries import CyclesQuery
from service.api.schemas import CycleBody, CyclePage

router = APIRouter(prefix="/cycles", tags=["jobs"])


@router.get("")
def list_cycles(query: Annotated[CyclesQuery, Query()], daemon: DaemonDep) -> CyclePage:
    """The latest scheduled moments, newest first: whether each ran, and why or why not."""
    found = daemon.db.cycles.list(query.profile, query.limit)
    return CyclePage(cycles=[CycleBody.model_validate(asdict(cycle)) for cycle in found])
