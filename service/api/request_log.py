"""A line in the log for each request, where `log.level` is `debug`; nothing that a person wrote is in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from http import HTTPMethod

import structlog
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.forwarded import client_of
from service.daemon import Daemon
from service.process.addresses import THIS_DEVICE

log = structlog.get_logger(__name__)

OUR_ID = re.compile(r"[a-z]-[0-9a-f]{23}|v\d{1,9}")  # of a record (`new_id`), or of a version
HIDDEN = "*"
METHODS = frozenset(HTTPMethod)


class RequestLog:
    """Logs method, path, status and milliseconds of each request, and of another device its address.

    Of the path only the words of `routes` and our own ids are shown, as others may be names or anything else.
    """

    def __init__(self, app: ASGIApp, daemon: Daemon, routes: Iterable[Route]) -> None:
        self._app, self._daemon = app, daemon
        self._words = {part for route in routes for part in route.path.split("/")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; log it when its answer is whole."""
        if scope["type"] != "http" or self._daemon.settings.log.level != "debug":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in METHODS else HIDDEN
            ms = round(1000 * (time.monotonic() - began))
            client = client_of(scope)
            whose = {} if client == THIS_DEVICE else {"client": client}
            log.debug("request", method=method, path=self._shown(scope["path"]), status=status, ms=ms, **whose)

    def _shown(self, path: str) -> str:
        parts = path.split("/")
        return "/".join(part if part in self._words or OUR_ID.fullmatch(part) else HIDDEN for part in parts)
