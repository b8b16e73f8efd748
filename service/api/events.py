"""One stream of what goes on, so that no two requests can disagree: the daemon's state, and a profile's newest job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import Field
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import DaemonDep
from service.api.errors import answers
from service.api.fields import JsonObject, PageQuery, ProfileQuery, Reply
from service.api.jobs import JobBody, list_jobs
from service.api.operation import Info, info
from service.daemon import Daemon

router = APIRouter(prefix="/events", tags=["operation"])

POLL_S = 2.0
HEARTBEAT_S = 15.0  # after which the state is sent although nothing has happened
TRIES = 3
RESTLESS = {"uptime_s": True, "memory": True, "free_disk_bytes": True}  # change without anything happening
STREAM = answers(
    "Server-sent events `state`, each a StateEvent: at once, when something has happened, and every 15 s; the id, sent "
    "back as `Last-Event-ID`, says which progress the client has.",
    "text/event-stream",
)


class StateEvent(Reply):
    """The daemon's state, and the profile's newest job with the progress that no earlier event had."""

    info: Info
    job: JobBody | None = Field(description="The profile's newest; null if it has none.")
    skipped: int = Field(description="Progress records of this job that earlier events had; 0 with another job.")
    progress: list[JsonObject]

    @property
    def id(self) -> str:
        """Which progress a client has that got it: the job, and its records."""
        return f"{self.job.id}:{self.skipped + len(self.progress)}" if self.job else ""


@router.get("", response_class=EventSourceResponse, responses=STREAM)
async def events(
    query: Annotated[ProfileQuery, Query()],
    daemon: DaemonDep,
    last_event_id: Annotated[str, Header(description="Id of the last event that the client got.")] = "",
) -> EventSourceResponse:
    """Stream the daemon's state, and the newest job of a profile."""
    return EventSourceResponse(_follow(daemon, query.profile, last_event_id))


async def _follow(daemon: Daemon, profile: str, last_id: str) -> AsyncIterator[dict[str, str]]:
    before, sent = "", 0.0
    while True:
        event = await run_in_threadpool(_state, daemon, profile, last_id)
        seen = event.model_dump_json(exclude={"info": RESTLESS, "skipped": True})
        if event.progress or seen != before or time.monotonic() - sent >= HEARTBEAT_S:
            yield {"event": "state", "id": event.id, "data": event.model_dump_json()}
            before, sent, last_id = seen, time.monotonic(), event.id
        await asyncio.sleep(POLL_S)


def _state(daemon: Daemon, profile: str, last_id: str) -> StateEvent:
    """Return the state of one moment: read again where job and daemon contradict each other."""
    for _ in range(TRIES):
        job = next(iter(list_jobs(PageQuery(profile=profile, limit=1), daemon).jobs), None)
        now = info(daemon)
        if job is None or (now.job == job.id) == (job.finished is None and job.status != "queued"):
            break
    lines = daemon.supervisor.progress(job.id) if job else []
    known, _, count = last_id.rpartition(":")
    skipped = min(int(count), len(lines)) if job and known == job.id and count.isdecimal() and len(count) < 9 else 0
    return StateEvent(info=now, job=job, skipped=skipped, progress=lines[skipped:])
