"""Cross-origin requests (CORS): those of the web pages that `server.allowed_origins` lists, and of no others.

Starlette's middleware answers their preflights, also Chrome's for private networks, and lets them read the answers.
All others go on to `AccessGuard`, which refuses them in words. Credentials (cookies) are never allowed: such a page
sends the token. `/session` and `/enter`, which give a browser the cookie in place of the token, are the dashboard's.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings.server import Server

DASHBOARD_PATHS = ("/session", "/enter")
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
EXPOSED = ("Allow", "Retry-After", "WWW-Authenticate")


class CrossOrigin:
    """Answers the preflights of the listed origins, and adds to the answers that their pages may read them."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._origins = app, server.allowed_origins
        self._cors = CORSMiddleware(
            app,
            allow_origins=server.allowed_origins,
            allow_methods=METHODS,
            allow_headers=("*",),  # answered with those that were asked for; OpenAI's client has a dozen of its own
            allow_private_network=True,
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it if it is a preflight."""
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        is_listed = origin is None or may_call(scope["path"], origin, self._origins)
        await (self._cors if is_listed else self._app)(scope, receive, send)


def may_call(path: str, origin: str, allowed: Collection[str]) -> bool:
    """Return True if a page of that origin may ask for the path."""
    return origin in allowed and not path.startswith(DASHBOARD_PATHS)
