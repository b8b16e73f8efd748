"""What stands before every route: whose request it is, and how large it may be. Plain ASGI."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import error_response
from service.metrics.requests import RequestMetrics
from service.settings.sections import Server

OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json", "/ready"})  # what holds nobody's data
OPEN_PREFIX = "/static/"
IMPORT_PATH = "/feedback/import"
DRAINED_BODIES = 8  # so many times the limit is read and thrown away, so that a client hears why it was refused


class RequestCounter:
    """Counts every request in `metrics`, also one that a guard refuses, by the status of its answer."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; count it once its answer begins, or as a 500 if an exception comes first."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def counting(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                self._metrics.count_request(scope["path"], message["status"])
                answered = True
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            if not answered:
                self._metrics.count_request(scope["path"], 500)
            raise


class HostGuard:
    """Answers 403 to a Host that is not ours (DNS rebinding) and to an Origin that is not the Host (another site)."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        own = f"[{server.host}]" if ":" in server.host else server.host
        self._hosts = frozenset(host.lower() for host in (*server.allowed_hosts, own))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is ours."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await error_response(scope["path"], 403, problem)(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or without_port(hosts[0]) not in self._hosts:
            return f"the Host {','.join(hosts)!a:.100} is not one of server.allowed_hosts {sorted(self._hosts)}"
        for origin in headers.getlist("origin"):
            if origin.lower() not in (f"http://{hosts[0]}", f"https://{hosts[0]}"):
                return f"the Origin {origin!a:.100} is another site; only pages of this daemon may call it"
        return None


def without_port(host: str) -> str:
    """`[::1]:80` as `[::1]`, `localhost:80` as `localhost`; empty for what is no host."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


class TokenGuard:
    """Answers 401 to a request without the bearer token; lets pass what holds nobody's data."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._token = None if server.token is None else server.token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what carries the token."""
        if scope["type"] != "http" or self._token is None or self._is_open(scope["path"]) or self._carries(scope):
            await self._app(scope, receive, send)
            return
        words = "the token is wrong or missing; send the header Authorization: Bearer <server.token>"
        await error_response(scope["path"], 401, words, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)

    def _carries(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        assert self._token is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)


class BodyLimit:
    """Answers 413 to a body over the limit: before reading where it says so itself, else as soon as it is."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._limit, self._import_limit = server.max_body_bytes, server.max_import_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._import_limit if scope["path"] == IMPORT_PATH else self._limit
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            if "expect" not in headers:  # who asks before sending has not sent yet
                await drain(receive, limit * DRAINED_BODIES)
            await error_response(scope["path"], 413, too_large(limit))(scope, receive, send)
        else:
            await self._app(scope, counted(receive, limit), send)


def counted(receive: Receive, limit: int) -> Receive:
    """`receive`, which raises a 413 as soon as more than `limit` bytes have come."""
    got = 0

    async def counting() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > limit:
            await drain(receive, limit * DRAINED_BODIES, message)
            raise HTTPException(413, too_large(limit))
        return message

    return counting


async def drain(receive: Receive, limit: int, message: Message | None = None) -> None:
    """What was left of the body has been thrown away, up to `limit` bytes of it."""
    got = 0
    message = message or {"type": "http.request", "more_body": True}
    while message["type"] == "http.request" and message.get("more_body") and got < limit:
        message = await receive()
        got += len(message.get("body", b""))


def too_large(limit: int) -> str:
    """What a client is told."""
    return f"the body is larger than {limit:,} bytes; send less, or raise the limit in the settings (server)"


GUARDS: Sequence[type[HostGuard] | type[TokenGuard] | type[BodyLimit]] = (HostGuard, TokenGuard, BodyLimit)
