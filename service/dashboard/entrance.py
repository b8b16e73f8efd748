"""The form for the token, or for a link's code, as browsers send it without any script."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import parse_qs

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from starlette.requests import Request
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.middleware import hold_wrong_token
from service.api.session import add_session, set_cookie

SEE_OTHER = 303


def entrance(pages: Collection[str]) -> APIRouter:
    """Return the route that begins a session and leads back to the page, one of the paths `pages`."""
    router = APIRouter(include_in_schema=False)

    @router.post("/enter")
    async def enter(request: Request, daemon: DaemonDep) -> Response:
        sent = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
        back = sent.get("page", "/") if sent.get("page") in pages else "/"
        server = daemon.settings.server
        if server.token is None:
            return RedirectResponse(f".{back}", SEE_OTHER)
        given = sent.get("token", "").strip().encode()
        response: Response = RedirectResponse(f".{back}", SEE_OTHER)
        if daemon.db.profile_tokens.profile_of(given.decode()) is not None:
            set_cookie(response, given.decode())
            return response
        is_right = hmac.compare_digest(given, server.token.get_secret_value().encode())
        if not is_right and not daemon.one_time_codes.use(sent.get("code", "")):
            if refusal := await hold_wrong_token(request.scope):
                return refusal
            return RedirectResponse(f".{back}?refused={'code' if 'code' in sent else 'token'}", SEE_OTHER)
        add_session(response, server)
        return response

    return router
