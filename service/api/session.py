"""A browser's session: a cookie that stands for the token, so that no script has to hold the token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field

from service.api.caller import caller, given_token, session_of
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Reply
from service.process.one_time_codes import LASTS_S as CODE_LASTS_S
from service.settings.sections import Server

router = APIRouter(prefix="/session", tags=["operation"])

COOKIE = "lars_agent_session"
LASTS_S = 30 * 24 * 3600


class LinkBody(Reply):
    """A link that opens the dashboard in another browser, once."""

    code: str
    path: str = Field(description="The page to open there, behind this daemon's address.")
    expires: datetime


@router.post("", status_code=204)
def begin(request: Request, response: Response, daemon: DaemonDep) -> None:
    """Begin a session with the token: the cookie of the answer then does instead, for this browser, for 30 days."""
    if caller().profile is None:
        add_session(response, daemon.settings.server)
    elif token := given_token(request.headers):  # else it has begun with the cookie of one, which goes on
        set_cookie(response, token)


@router.delete("", status_code=204)
def end(response: Response) -> None:
    """End the session: take the cookie back."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


@router.post("/links", status_code=201, responses=documented(409))
def link(daemon: DaemonDep) -> LinkBody:
    """Make a link with which another browser begins a session without the token, once and within ten minutes."""
    if daemon.settings.server.token is None:
        raise HTTPException(409, "server.token is not set: the pages open without it, from this device alone")
    code = daemon.one_time_codes.new()
    return LinkBody(code=code, path=f"/?code={code}", expires=datetime.now(UTC) + timedelta(seconds=CODE_LASTS_S))


def add_session(response: Response, server: Server) -> None:
    """Give who gets `response` a session of the owner."""
    if server.token is not None:
        set_cookie(response, server.token.get_secret_value())


def set_cookie(response: Response, token: str) -> None:
    """Give who gets `response` a session that stands for the token."""
    response.set_cookie(COOKIE, session_of(token), max_age=LASTS_S, httponly=True, samesite="strict")
