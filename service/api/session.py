"""A browser's session: a cookie that stands for the token, so that no script has to hold the token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import segno
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field
from starlette.types import Scope

from service.api.caller import caller, given_token
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Reply
from service.api.forwarded import client_of
from service.daemon import Daemon
from service.process.addresses import THIS_DEVICE
from service.process.one_time_codes import LASTS_S as CODE_LASTS_S
from service.serving.sessions import LASTS

router = APIRouter(prefix="/session", tags=["operation"])

COOKIE = "lars_agent_session"
ONLY_HERE = "only this device reaches the daemon; set server.external_url first, see docs/other-devices.md"


class LinkBody(Reply):
    """A link that opens the dashboard in another browser, once."""

    code: str
    path: str = Field(description="The page to open there, behind this daemon's address.")
    expires: datetime
    urls: list[str] = Field(description="The whole link, by each address at which other devices reach the daemon.")
    qr: list[str] = Field(description="The QR code of the first of them, row by row: `1` for each dark module.")


@router.post("", status_code=204)
def begin(request: Request, response: Response, daemon: DaemonDep) -> None:
    """Begin a session with the token: the cookie of the answer then does instead, for this browser.

    It ends 30 days after its last use. A program on this device, of which no token is asked, gets none.
    """
    token = given_token(request.headers) if caller().profile is not None else ""
    if token or (caller().profile is None and must_have_token(request.scope, daemon)):
        add_session(request, response, daemon, token)


@router.delete("", status_code=204)
def end(request: Request, response: Response, daemon: DaemonDep) -> None:
    """End the session of this browser."""
    session = daemon.sessions.find(request.cookies.get(COOKIE))
    if session is not None:
        daemon.sessions.end(session.id)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


@router.post("/links", status_code=201, responses=documented(409))
def link(daemon: DaemonDep) -> LinkBody:
    """Make a link with which another browser begins a session without the token, once and within ten minutes."""
    server = daemon.settings.server
    if not server.external_urls and server.token is None:
        raise HTTPException(409, ONLY_HERE)
    code = daemon.sessions.codes.new()
    path = f"/?code={code}"
    urls = [f"{url}{path}" for url in server.external_urls]
    expires = datetime.now(UTC) + timedelta(seconds=CODE_LASTS_S)
    return LinkBody(code=code, path=path, expires=expires, urls=urls, qr=qr_rows(urls[0]) if urls else [])


def qr_rows(text: str) -> list[str]:
    """Return the QR code of `text`, row by row, `1` for each dark module."""
    return ["".join(map(str, row)) for row in segno.make(text, micro=False).matrix]


def must_have_token(scope: Scope, daemon: Daemon) -> bool:
    """Return whether who asks needs the token: that of the settings everybody, the file's all but this device."""
    return daemon.sessions.token.is_set or client_of(scope) != THIS_DEVICE


def add_session(request: Request, response: Response, daemon: Daemon, token: str = "") -> None:
    """Begin a session in the browser that asks, of the owner or by a profile's `token`, and have `response` tell it."""
    set_cookie(request, response, daemon.sessions.begin(request.headers.get("user-agent", ""), token))


def renew_cookie(request: Request, response: Response) -> None:
    """Have a browser that has a session keep its cookie for as long as one lasts from now."""
    secret = request.cookies.get(COOKIE)
    if secret is not None and request.app.state.daemon.sessions.find(secret) is not None:
        set_cookie(request, response, secret)


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """Have the browser that asks send `secret` for as long as a session lasts, over TLS alone if it came over it."""
    is_secure = request.url.scheme == "https"
    lasts_s = int(LASTS.total_seconds())
    response.set_cookie(COOKIE, secret, max_age=lasts_s, httponly=True, samesite="strict", secure=is_secure)
