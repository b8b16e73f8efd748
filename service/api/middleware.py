"""ASGI middleware: headers of every answer, count requests, check Host, Origin and token, limit the size of bodies."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.caller import OWNER, Caller, answering, given_token
from service.api.cross_origin import may_call
from service.api.errors import error_response
from service.api.session import COOKIE, must_have_token
from service.serving.request_metrics import RequestMetrics
from service.settings.server import Server

PAGES = frozenset(("/", "/device", "/docs", "/learned", "/memory", "/preferences", "/status", "/versions"))
# Without personal data for who has no token; /enter checks the token itself.
OPEN_PATHS = PAGES | {"/health", "/openapi.json", "/ready", "/enter"}
OPEN_PREFIX = "/static/"
GENERATE_AT = "/"  # where TGI's clients ask for a reply, which is a page to everybody else
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site: this daemon's pages, and people who type an address
WRONG_TOKEN = "the token is wrong or missing; send the header Authorization: Bearer TOKEN (lars-agent token --show)"
TOO_MANY = "too many wrong tokens come from this address at once; wait for the answers"
IMPORT_PATHS = ("/feedback/import", "/v1/files")
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
        answered, path = False, counted_path(scope)

        async def counting(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                self._metrics.count_request(path, message["status"])
                answered = True
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            if not answered:
                self._metrics.count_request(path, 500)
            raise


def counted_path(scope: Scope) -> str:
    """Return the path by which a request is counted: what is asked for at the root counts as in TGI's dialect."""
    path: str = scope["path"]
    return "/generate" if path == GENERATE_AT and scope["method"] == "POST" else path


class SafeHeaders:
    """Adds to every answer that its type is the one that it says, so that no browser takes a reply for a script."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the header where its answer starts."""

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, adding)


class AccessGuard:
    """Answers 403 to a foreign Host (DNS rebinding) or site, and 401 without token or session."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._hosts, self._origins = app, server.hosts, server.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused; tell what answers it who has sent it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._foreign(scope, headers)
        who = await self._caller(scope, headers) if refusal is None else None
        if refusal is None and who is None and not is_open(scope["path"], scope["method"]):
            refusal = await self._unauthorized(scope, headers)
        with answering(who or OWNER):  # what is open tells nothing of anybody
            await (refusal or self._app)(scope, receive, send)

    def _foreign(self, scope: Scope, headers: Headers) -> Response | None:
        path = scope["path"]
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or without_port(hosts[0]) not in self._hosts:
            message = f"the Host {','.join(hosts)!a:.100} is not one of server.allowed_hosts"
            return error_response(path, 403, message)
        for origin in headers.getlist("origin"):
            if not _is_own(origin, hosts[0]) and not may_call(path, origin, self._origins):
                known = "pages of this daemon, and for the API those in server.allowed_origins,"
                message = f"the Origin {origin!a:.100} is another site; only {known} may call it"
                return error_response(path, 403, message)
        site = headers.get("sec-fetch-site", "none")
        if site not in OWN_SITES and "origin" not in headers and not _is_visit(scope, headers):
            return error_response(path, 403, f"only pages of this daemon may ask for this, not a {site!a:.40} one")
        return None

    async def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """Return who asks: by a token, else by the session of a page of this daemon; None for nobody."""
        daemon, given = scope["app"].state.daemon, given_token(headers)
        if (profile := daemon.db.profile_tokens.profile_of(given)) is not None:
            return Caller(profile)
        if daemon.sessions.token.is_given(given):
            return OWNER
        # Cookies are sent to every port of a host, and by the pages of every port: only this daemon's own may use it.
        is_own = headers.get("sec-fetch-site", "none") in OWN_SITES
        is_own &= all(_is_own(origin, headers.get("host", "").lower()) for origin in headers.getlist("origin"))
        session = daemon.sessions.find(cookie_parser(headers.get("cookie", "")).get(COOKIE)) if is_own else None
        if session is not None:
            if daemon.sessions.is_due(session):
                await run_in_threadpool(daemon.sessions.note_use, session)
            return Caller(session.profile)
        return None if must_have_token(scope, daemon) else OWNER

    async def _unauthorized(self, scope: Scope, headers: Headers) -> Response:
        if given_token(headers) and (refusal := await hold_wrong_token(scope)):
            return refusal
        return _refused(scope["path"])


async def hold_wrong_token(scope: Scope) -> Response | None:
    """Hold back the answer to a wrong token for as long as its address has to wait; a 429 if too many wait already."""
    wrong_tokens = scope["app"].state.daemon.wrong_tokens
    host = (scope.get("client") or ("",))[0]
    if await wrong_tokens.hold(host):
        return None
    retry = {"Retry-After": str(wrong_tokens.retry_after_s(host))}
    return error_response(scope["path"], 429, TOO_MANY, headers=retry)


def is_open(path: str, method: str) -> bool:
    """Return whether a request needs no token."""
    if path == GENERATE_AT:
        return method.upper() in ("GET", "HEAD")
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def _refused(path: str) -> Response:
    return error_response(path, 401, WRONG_TOKEN, headers={"WWW-Authenticate": "Bearer"})


def _is_own(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host}", f"https://{host}")


def _is_visit(scope: Scope, headers: Headers) -> bool:
    """Return True if a person follows a link to a page: the whole window shows it, and its sender cannot read it."""
    in_window = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    return in_window and scope["method"] in ("GET", "HEAD") and scope["path"] in PAGES


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
        limit = self._import_limit if scope["path"] in IMPORT_PATHS else self._limit
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
