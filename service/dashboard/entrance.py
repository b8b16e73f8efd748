"""The form for the token, or for a link's code, as browsers send it without any script."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qs

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.middleware import hold_wrong_token
from service.api.session import add_session, must_have_token

SEE_OTHER = 303


def entrance(pages: Collection[str]) -> APIRouter:
    """Return the route that begins a session and leads back to the page, one of the paths `pages`."""
    router = APIRouter(include_in_schema=False)

    @router.post("/enter")
    async def enter(request: Request, daemon: DaemonDep) -> Response:
        sent = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
        back = sent.get("page", "/") if sent.get("page") in pages else "/"
        if not must_have_token(request.scope, daemon):
            return RedirectResponse(f".{back}", SEE_OTHER)
        given, sessions = sent.get("token", "").strip(), daemon.sessions
        bound = given if daemon.db.profile_tokens.profile_of(given) is not None else ""
        if not (bound or sessions.token.is_given(given) or sessions.codes.use(sent.get("code", ""))):
            if refusal := await hold_wrong_token(request.scope):
                return refusal
            return RedirectResponse(f".{back}?refused={'code' if 'code' in sent else 'token'}", SEE_OTHER)
        response: Response = RedirectResponse(f".{back}", SEE_OTHER)
        await run_in_threadpool(add_session, request, response, daemon, bound)
        return response

    return router
