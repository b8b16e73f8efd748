"""HTTP client of the daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from service.process.access_token import TOKEN_NAME, read_token
from service.settings.load import load_settings
from service.settings.server import is_loopback, url_of

TIMEOUT_S = 300.0
LISTS = {  # commands that list the ids of what is at these paths
    "/feedback/": "lars-agent feedback list",
    "/interactions/": "lars-agent interactions list",
    "/jobs/": "lars-agent jobs list",
    "/sessions/": "lars-agent sessions list",
}


class ApiError(Exception):
    """The daemon answered with the error `status`, or did not answer (0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def path_of(kind: str, record_id: str, *more: str) -> str:
    """Return the path of a record, whatever is in its id."""
    return "/".join(["", kind, quote(record_id, safe=""), *more])


class Client:
    """Client of the daemon at `url`, by default of the one that the settings describe. All methods raise ApiError."""

    def __init__(self, url: str | None = None) -> None:
        token, self._token_of = os.environ.get("LARS_AGENT_TOKEN"), "the environment variable LARS_AGENT_TOKEN"
        if url is None:
            settings = load_settings()
            server, file = settings.server, settings.data_dir / TOKEN_NAME
            url = url_of(server.host, server.port)
            if not token and server.token:
                token, self._token_of = server.token.get_secret_value(), "the settings (server.token)"
            elif not token and not is_loopback(urlsplit(url).hostname or ""):  # of this device the file's is not asked
                token, self._token_of = read_token(file), f"the file {file}"
        if not url.startswith(("http://", "https://")):
            raise ApiError(f"{url!r} is no address of a daemon; give one such as http://127.0.0.1:8321")
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_keepalive_connections=0)  # nobody closes a client
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, headers=headers, limits=limits)

    def get(self, path: str, **query: str | int | None) -> Any:
        """Return the JSON at `path`; parameters that are None are left out."""
        return self._json("GET", path, params=_given(query))

    def post(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """Send `body` and return the JSON reply."""
        return self._json("POST", path, json=body, params=query)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Send changes and return the JSON reply."""
        return self._json("PATCH", path, json=body)

    def upload(self, path: str, content: Iterable[bytes], **query: str) -> Any:
        """Send a body of JSON lines and return the JSON reply, which may take long."""
        options: dict[str, Any] = {"headers": {"Content-Type": "application/x-ndjson"}, "params": query}
        timeout = httpx.Timeout(TIMEOUT_S, read=None)
        return self._json("POST", path, content=content, timeout=timeout, **options)

    def delete(self, path: str) -> Any:
        """Delete the resource at `path`; return the answer, None if it has no body."""
        response = self._send("DELETE", path)
        return self._read(response) if response.content else None

    def lines(self, path: str, **query: str) -> list[str]:
        """Return the lines at `path`."""
        return self._send("GET", path, params=query).text.splitlines(keepends=True)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send `body` and yield the server-sent events."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                self._check(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        event = json.loads(line.removeprefix("data:"))
                        if "error" in event:
                            raise ApiError(event["error"]["message"])
                        yield event
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._read(self._send(method, path, **options))

    def _read(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self._foreign(response) from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            raise self._foreign(response) from None
        if response.status_code == httpx.codes.UNAUTHORIZED:
            message = "the daemon asks for its token; put it into the environment variable LARS_AGENT_TOKEN"
            if "Authorization" in self._http.headers:
                message = f"the daemon refuses the token of {self._token_of}; it has another one as its server.token"
        if response.status_code == httpx.codes.NOT_FOUND:
            path = response.request.url.path
            message += "".join(f"; to see those that exist: {LISTS[kind]}" for kind in LISTS if path.startswith(kind))
        raise ApiError(message, response.status_code)

    def _foreign(self, response: httpx.Response) -> ApiError:
        message = f"{self.url} answers ({response.status_code}), but not as lars-agent does; check the address"
        return ApiError(message, response.status_code)

    def _unreachable(self, error: Exception) -> ApiError:
        if isinstance(error, httpx.ReadTimeout):
            return ApiError(f"the daemon at {self.url} has not answered for {TIMEOUT_S:.0f} s; lars-agent doctor")
        return ApiError(f"no daemon answers at {self.url} ({error}); start it with: lars-agent serve")


def _given(query: dict[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in query.items() if value is not None}
