"""ASGI middleware: count requests, check Host, Origin and token, limit the size of bodies."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import error_response
from service.api.session import COOKIE, session_of
from service.serving.request_metrics import RequestMetrics
from service.settings.sections import Server

OPEN_PATHS = frozenset(
    (
        *("/", "/device", "/docs", "/learned", "/memory", "/preferences", "/status", "/versions"),
        *("/health", "/openapi.json", "/ready"),
        "/enter",  # checks the token itself
    )
)  # without personal data for who has no token
OPEN_PREFIX = "/static/"
IMPORT_PATH = "/feedback/import"
DRAINED_BODIES = 8  # times the limit to read and discard, so that the client receives the error


class RequestCounter:
    """Counts every request in `metrics` by its status, including those that a guard refuses."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; count it when its response starts, or as a 500 if an exception comes first."""
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


class AccessGuard:
    """Answers 403 to a foreign Host (DNS rebinding) or Origin (another site), and 401 without token or session."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._token = app, server.token
        own = f"[{server.host}]" if ":" in server.host else server.host
        self._hosts = frozenset(host.lower() for host in (*server.allowed_hosts, own))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        refusal = self._refusal(scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or without_port(hosts[0]) not in self._hosts:
            message = f"the Host {','.join(hosts)!a:.100} is not one of server.allowed_hosts {sorted(self._hosts)}"
            return error_response(path, 403, message)
        for origin in headers.getlist("origin"):
            if origin.lower() not in (f"http://{hosts[0]}", f"https://{hosts[0]}"):
                message = f"the Origin {origin!a:.100} is another site; only pages of this daemon may call it"
                return error_response(path, 403, message)
        if self._token is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = self._token.get_secret_value()
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
            return None
        # Cookies are sent to every port of a host, and by the pages of every port: only this daemon's own may use it.
        session = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        is_own = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        if is_own and hmac.compare_digest(session.encode(), session_of(token).encode()):
            return None
        message = "the token is wrong or missing; send the header Authorization: Bearer <server.token>"
        return error_response(path, 401, message, headers={"WWW-Authenticate": "Bearer"})


def without_port(host: str) -> str:
    """Return `localhost` for `localhost:80` and `[::1]` for `[::1]:80`; empty for an invalid host."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    return f"[{name}]" if ":" in name else name


class BodyLimit:
    """Answers 413 to a body over the limit: at once if Content-Length says so, else while reading it."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._limit, self._import_limit = server.max_body_bytes, server.max_import_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the limit applied to its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._import_limit if scope["path"] == IMPORT_PATH else self._limit
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            if "expect" not in headers:  # a client that waits for 100 Continue has sent no body
                await drain(receive, limit * DRAINED_BODIES)
            await error_response(scope["path"], 413, too_large(limit))(scope, receive, send)
        else:
            await self._app(scope, counted(receive, limit), send)


def counted(receive: Receive, limit: int) -> Receive:
    """Wrap `receive` to raise a 413 as soon as the body exceeds `limit` bytes."""
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
    """Read and discard the rest of the body, up to `limit` bytes."""
    got = 0
    message = message or {"type": "http.request", "more_body": True}
    while message["type"] == "http.request" and message.get("more_body") and got < limit:
        message = await receive()
        got += len(message.get("body", b""))


def too_large(limit: int) -> str:
    """Return the message of a 413."""
    return f"the body is larger than {limit:,} bytes; send less, or raise the limit in the settings (server)"


GUARDS: Sequence[type[AccessGuard] | type[BodyLimit]] = (AccessGuard, BodyLimit)
