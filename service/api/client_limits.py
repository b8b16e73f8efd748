"""Limits for each client of another device: on requests in a minute, and on replies and streams at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import RETRY_AFTER_S, error_response
from service.api.forwarded import client_of
from service.process.addresses import THIS_DEVICE
from service.process.rate_limit import RateLimit
from service.settings.server import Server

READING = ("GET", "HEAD", "OPTIONS")
GENERATIONS, WRITES = "server.generations_per_minute", "server.writes_per_minute"
STREAMS = "server.max_streams_per_address"
LOGIN = "/enter"  # has limits of its own: `service.process.wrong_tokens`
EVENTS = "/events"  # streams of events end so


class ClientLimits:
    """Answers 429 to a client that asks for too much; `generating` are the paths at which replies are made.

    This device itself has no limits here: its programs share one address, and there is the queue.
    """

    def __init__(self, app: ASGIApp, server: Server, generating: Collection[str]) -> None:
        self._app, self._generating = app, generating
        self._most_streams = server.max_streams_per_address
        self._limits = {
            GENERATIONS: RateLimit(server.generations_per_minute),
            WRITES: RateLimit(server.writes_per_minute),
        }
        self._streams: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is one too many."""
        client = client_of(scope) if scope["type"] == "http" else THIS_DEVICE
        if client == THIS_DEVICE:
            await self._app(scope, receive, send)
            return
        is_reading = scope["method"] in READING
        generates = not is_reading and scope["path"] in self._generating
        is_stream = generates or (is_reading and scope["path"].endswith(EVENTS))
        refusal = self._one_stream_too_many(scope["path"], client) if is_stream else None
        if refusal is None and not is_reading and scope["path"] != LOGIN:
            refusal = self._too_fast(scope["path"], client, GENERATIONS if generates else WRITES)
        if refusal is not None or not is_stream:
            await (refusal or self._app)(scope, receive, send)
            return
        self._streams[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams[client] -= 1
            self._streams += Counter()  # keeps what is above 0

    def _one_stream_too_many(self, path: str, client: str) -> Response | None:
        if not 0 < self._most_streams <= self._streams[client]:
            return None
        message = f"this address has {self._most_streams} replies and streams at work ({STREAMS}); wait for one of them"
        return _refused(path, message, RETRY_AFTER_S)

    def _too_fast(self, path: str, client: str, setting: str) -> Response | None:
        wait_s = self._limits[setting].wait_s(client)
        message = f"too many requests come from this address ({setting}); wait {wait_s} s"
        return _refused(path, message, wait_s) if wait_s else None


def _refused(path: str, message: str, wait_s: int) -> Response:
    return error_response(path, 429, message, headers={"Retry-After": str(wait_s)})
