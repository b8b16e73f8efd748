"""The browsers that were let in: list them, and show one the door."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Reply
from service.api.session import COOKIE

router = APIRouter(prefix="/sessions", tags=["operation"])


class SessionBody(Reply):
    """A browser that was let in."""

    id: str
    profile: str | None = Field(description="The profile that it is bound to; null for the owner's.")
    client: str = Field(description="The browser, as it named itself.", examples=["Firefox, Android"])
    created: datetime
    last_used: datetime = Field(description="To some minutes.")
    is_current: bool = Field(description="Whether it is the one that asks.")


class SessionList(Reply):
    """All browsers that were let in, the one used last first."""

    sessions: list[SessionBody]
    external_urls: list[str] = Field(description="Where other devices reach the daemon; empty if they cannot.")


@router.get("")
def list_(request: Request, daemon: DaemonDep) -> SessionList:
    """List the browsers that have a session, and the addresses at which other devices reach the daemon."""
    current = daemon.sessions.find(request.cookies.get(COOKIE))
    found = [
        SessionBody(
            id=one.id,
            profile=one.profile,
            client=one.client,
            created=one.created,
            last_used=one.last_used,
            is_current=current is not None and one.id == current.id,
        )
        for one in daemon.sessions.list()
    ]
    return SessionList(sessions=found, external_urls=list(daemon.settings.server.external_urls))


@router.delete("/{session_id}", status_code=204, responses=documented(404, 503))
def end(session_id: str, daemon: DaemonDep) -> None:
    """End a session: its browser has to give the token, or open a link, to get in again."""
    daemon.sessions.end(session_id)
