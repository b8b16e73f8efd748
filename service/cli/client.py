"""How the command line speaks to the daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx

from service.settings.load import load_settings
from service.settings.sections import url_of

TIMEOUT_S = 300.0


class ApiError(Exception):
    """The daemon refused with `status`, or does not answer (0); the message says why and what to do."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Calls to the daemon at `url`, by default where the settings say it listens. All raise ApiError."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or default_url()
        token = os.environ.get("LARS_AGENT_TOKEN") or (None if url else _own_token())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, headers=headers)

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `path`."""
        return self._send("GET", path, params=query).json()

    def post(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The JSON answer to `body`."""
        return self._send("POST", path, json=body, params=query).json()

    def upload(self, path: str, content: bytes, **query: str) -> Any:
        """The JSON answer to a body of JSON lines."""
        headers = {"Content-Type": "application/x-ndjson"}
        return self._send("POST", path, content=content, headers=headers, params=query).json()

    def delete(self, path: str) -> None:
        """What is at `path` is gone."""
        self._send("DELETE", path)

    def lines(self, path: str, **query: str) -> list[str]:
        """The lines at `path`."""
        return self._send("GET", path, params=query).text.splitlines(keepends=True)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events that answer `body`."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    response.read()
                    self._check(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield self._event(json.loads(line.removeprefix("data:")))
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
            try:
                words = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                words = f"{self.url} answered {response.status_code}"
            if response.status_code == httpx.codes.UNAUTHORIZED:
                words = "the daemon asks for its token; put it into the environment variable LARS_AGENT_TOKEN"
            raise ApiError(words, response.status_code)

    def _event(self, event: dict[str, Any]) -> dict[str, Any]:
        if "error" in event:
            raise ApiError(event["error"]["message"])
        return event

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"no daemon answers at {self.url} ({error}); start it with: lars-agent serve")


def default_url() -> str:
    """Where this machine's settings say that the daemon listens."""
    server = load_settings().server
    return url_of(server.host, server.port)


def _own_token() -> str | None:
    """The token of this machine's daemon, where the settings that we may read name it."""
    token = load_settings().server.token
    return None if token is None else token.get_secret_value()
