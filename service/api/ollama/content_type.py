"""Ollama's clients send JSON under any Content-Type, or under none; Ollama reads it all the same, and so does this.

That a form of another site cannot have the Content-Type of JSON is no part of the defence against such sites:
`AccessGuard` refuses them by Origin and Sec-Fetch-Site, which browsers send with every form, whatever its type.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import OLLAMA

CONTENT_TYPE = b"content-type"


class AnyContentType:
    """Has every body under `/api/` read as JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the Content-Type of JSON."""
        if scope["type"] == "http" and scope["path"].startswith(OLLAMA):
            others = [header for header in scope["headers"] if header[0] != CONTENT_TYPE]
            scope = {**scope, "headers": [*others, (CONTENT_TYPE, b"application/json")]}
        await self._app(scope, receive, send)
