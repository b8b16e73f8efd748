"""HTTP client of the daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from service.settings.load import load_settings
from service.settings.sections import url_of

TIMEOUT_S = 300.0


class ApiError(Exception):
    """The daemon answered with the error `status`, or did not answer (0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Client of the daemon at `url`, by default of the one that the settings describe. All methods raise ApiError."""

    def __init__(self, url: str | None = None) -> None:
        token = os.environ.get("LARS_AGENT_TOKEN")
        if url is None:
            server = load_settings().server
            url = url_of(server.host, server.port)
            token = token or (server.token.get_secret_value() if server.token else None)
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, headers=headers)

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON at `path`."""
        return self._send("GET", path, params=query).json()

    def post(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """Send `body` and return the JSON reply."""
        return self._send("POST", path, json=body, params=query).json()

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Send changes and return the JSON reply."""
        return self._send("PATCH", path, json=body).json()

    def upload(self, path: str, content: Iterable[bytes], **query: str) -> Any:
        """Send a body of JSON lines and return the JSON reply, which may take long."""
        options: dict[str, Any] = {"headers": {"Content-Type": "application/x-ndjson"}, "params": query}
        timeout = httpx.Timeout(TIMEOUT_S, read=None)
        return self._send("POST", path, content=content, timeout=timeout, **options).json()

    def delete(self, path: str) -> Any:
        """Delete the resource at `path`; return the answer."""
        return self._send("DELETE", path).json()

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

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.is_error:
            response.read()
            try:
                message = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = f"{self.url} answered {response.status_code}"
            if response.status_code == httpx.codes.UNAUTHORIZED:
                message = "the daemon asks for its token; put it into the environment variable LARS_AGENT_TOKEN"
            raise ApiError(message, response.status_code)

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"no daemon answers at {self.url} ({error}); start it with: lars-agent serve")
