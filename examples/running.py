"""A real daemon on a folder: started, spoken to over HTTP as any client would, and stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from lars_agent.errors import LarsError

SERVE = (sys.executable, "-m", "service", "serve")
REPLY_TOKENS = 40
LOG_TAIL = 3000


@dataclass
class Daemon:
    """A daemon on the data folder `state`, that can be started again on the same folder and port.

    Attributes:
        settings: named as their environment variables are, in lower case: `runtime__threads="1"`; the caller's own
            LARS_AGENT_ variables are ignored.
        log: the file that takes its output; by default in `state`.
    """

    state: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    log: Path = Path()
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.log = self.state / "daemon.log" if self.log == Path() else self.log

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def http(self) -> httpx.Client:
        """A client with a long timeout."""
        return httpx.Client(base_url=self.url, timeout=120)

    def start(self, command: Sequence[str] = SERVE, **environment: str) -> None:
        """Start the daemon without waiting; it dies with this process where util-linux is installed."""
        everything = {name: value for name, value in os.environ.items() if not name.startswith("LARS_AGENT_")}
        settings = {"schedule__enabled": "false", **self.settings}
        settings |= {"data_dir": str(self.state), "server__port": str(self.port)}
        everything |= {f"LARS_AGENT_{name.upper()}": value for name, value in settings.items()} | environment
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash, *command], env=everything, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_healthy(self, limit_s: float = float("inf")) -> float:
        """Wait until GET /health is 200; return the seconds. Raises LarsError with its log where it died."""
        started = time.monotonic()
        while not self.is_healthy():
            if self.process is None or self.process.poll() is not None or time.monotonic() > started + limit_s:
                raise LarsError(f"the daemon did not start:\n{self.log_tail()}")
            time.sleep(0.05)
        return time.monotonic() - started

    def is_healthy(self) -> bool:
        """Tell whether GET /health is answered with 200."""
        return self.try_get("/health", 1.0) is not None

    def try_get(self, path: str, within_s: float = 20.0) -> Any:
        """The answer to GET; None where there is none."""
        try:
            response = httpx.get(self.url + path, timeout=within_s)
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success else None

    def stop(self, limit_s: float = 60.0) -> None:
        """End it by SIGTERM, as systemd does. Raises LarsError where that takes longer than `limit_s`."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LarsError(f"the daemon did not end within {limit_s:.0f} s of SIGTERM") from None

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if self.log.exists() else ""

    def get(self, path: str) -> Any:
        """The answer to GET. Raises LarsError for a status that is an error."""
        return self._answer(self.http.get(path))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        """The answer to POST. Raises LarsError for a status that is an error."""
        return self._answer(self.http.post(path, json=body, headers=headers))

    def reply(self, prompt: str) -> tuple[str, dict[str, Any]]:
        """The greedy reply to `prompt` by the adapter alone, and its details."""
        parameters = {"max_new_tokens": REPLY_TOKENS, "recall": False}
        answer = self.post("/generate", {"inputs": prompt, "parameters": parameters})
        return answer["generated_text"], answer["details"]

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise LarsError(f"{response.request.method} {response.request.url.path}: {response.text}")
        return response.json()


@contextmanager
def daemon(state: Path, **settings: str) -> Iterator[Daemon]:
    """A daemon on `state`, ready to reply; stopped by SIGTERM at the end."""
    running = Daemon(state, settings)
    running.start()
    try:
        running.wait_until_healthy()
        with running.http:
            yield running
    finally:
        running.stop()


def free_port() -> int:
    """A TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
