"""A browser's session: a cookie that stands for the token, so that no script has to hold the token."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Response

from service.api.dependencies import DaemonDep

router = APIRouter(prefix="/session", tags=["operation"])

COOKIE = "lars_agent_session"
LASTS_S = 30 * 24 * 3600


@router.post("", status_code=204)
def begin(response: Response, daemon: DaemonDep) -> None:
    """Begin a session with the token: the cookie of the answer then does instead, for this browser, for 30 days."""
    if (token := daemon.settings.server.token) is not None:
        value = session_of(token.get_secret_value())
        response.set_cookie(COOKIE, value, max_age=LASTS_S, httponly=True, samesite="strict")


@router.delete("", status_code=204)
def end(response: Response) -> None:
    """End the session: take the cookie back."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def session_of(token: str) -> str:
    """Return the value of the session's cookie; who changes the token ends all sessions."""
    return hmac.digest(token.encode(), b"lars-agent session", "sha256").hex()
