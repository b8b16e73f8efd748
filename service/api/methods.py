"""Methods that a path answers to: any other gets a 405, with exactly these in its header `Allow`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import error_response

FILES_PREFIX, FILES_METHODS = "/static/", {"GET", "HEAD"}


class MethodTable:
    """The methods of each path of `routes`; a path without parameters comes before one with parameters that it fits."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._plain = defaultdict[str, set[str]](set)
        self._patterns = [(route.path_regex, route.methods or set()) for route in routes if "{" in route.path]
        for route in routes:
            self._plain[route.path] |= route.methods or set()

    def of(self, path: str) -> set[str]:
        """Return the methods of the path; empty if there is no such path."""
        if path.startswith(FILES_PREFIX):
            return FILES_METHODS
        if path in self._plain:
            return self._plain[path]
        return set[str]().union(*(methods for pattern, methods in self._patterns if pattern.match(path)))


class MethodGuard:
    """Answers 405 to a method that the path does not have."""

    def __init__(self, app: ASGIApp, table: MethodTable) -> None:
        self._app, self._table = app, table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused."""
        if scope["type"] == "http" and (allowed := self._table.of(scope["path"])) and scope["method"] not in allowed:
            await _refusal(scope, allowed)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refusal(scope: Scope, allowed: Iterable[str]) -> Response:
    listed = ", ".join(sorted(allowed))
    message = f"{scope['method'][:20]} is not supported at {scope['path']!a:.200}, but {listed}"
    return error_response(scope["path"], 405, message, headers={"Allow": listed})
