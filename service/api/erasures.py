"""Erasures: how far a deletion has come."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Deleted, Id, ListQuery, Reply
from service.daemon import Daemon
from service.db.erasures import STAGES
from service.db.records import ErasureRecord

router = APIRouter(tags=["erasures"])


class ErasureBody(Reply):
    """A deletion: what went, and when each stage was done."""

    id: str
    created: datetime
    profiles: list[str]
    feedback: list[str] = Field(description="Ids of the deleted feedback.")
    interactions: int = Field(description="Number of deleted interactions.")
    versions: Mapping[str, list[int]] = Field(
        description="By profile the deleted adapter versions, which had learned it."
    )
    stages: Mapping[str, datetime | None] = Field(
        description="`rows`: of the database. `recall`: of its index. `wordings`: made of it for training. "
        "`served_version`: no version that learned it replies. `caches`: of processed prompts. `jobs`, `checkpoints`: "
        "in the directories of jobs. `free_pages`: of the database file, and its log. `retrained`: a job without it "
        "has been judged, where a version had learned it."
    )
    complete: bool = Field(description="Whether all but `retrained` is done.")
    backups: int | None = Field(
        description="Backups in `backup.folder` that are older, and may hold what was deleted: they go once a newer "
        "one is made, unless `backup.prune_forgotten` is off. Null if that folder is not there."
    )


class ErasureList(Reply):
    """Erasures, newest first."""

    erasures: list[ErasureBody]


@router.get("/erasures")
def list_erasures(query: Annotated[ListQuery, Query()], daemon: DaemonDep) -> ErasureList:
    """List the deletions, newest first."""
    found = daemon.db.erasures.list(**query.model_dump())
    return ErasureList(erasures=[_body(daemon, one) for one in found])


@router.get("/erasures/{erasure_id}", responses=documented(404))
def get(erasure_id: Id, daemon: DaemonDep) -> ErasureBody:
    """Return one deletion with its stages."""
    return _body(daemon, daemon.db.erasures.get(erasure_id))


def deleted(daemon: Daemon, erasure: ErasureRecord | None, *, deleted_interactions: bool = False) -> Deleted:
    """Carry out the erasure, and return the answer to the request for it."""
    if erasure is None:
        return Deleted(deleted=0, erasure_id=None)
    daemon.eraser.carry_out(erasure)
    count = erasure.interactions if deleted_interactions else len(erasure.feedback)
    return Deleted(deleted=count, erasure_id=erasure.id)


def _body(daemon: Daemon, erasure: ErasureRecord) -> ErasureBody:
    jobs = [job for profile in erasure.versions for job in daemon.db.jobs.list(profile)]
    judged = [job.finished for job in jobs if job.created > erasure.created and job.verdict is not None]
    stages = {stage: erasure.stages.get(stage) for stage in STAGES}
    retrained = min(filter(None, judged), default=None) if erasure.versions else erasure.created
    body = {**vars(erasure), "stages": {**stages, "retrained": retrained}, "complete": all(stages.values())}
    body["backups"] = daemon.backups.older_than(erasure.created)
    return ErasureBody.model_validate(body)
