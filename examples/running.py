"""A real daemon on a folder, spoken to over HTTP as any client would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

REPLY_TOKENS = 40


@dataclass
class Daemon:
    """A running daemon; `log` is what it writes."""

    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> Any:
        return self._answer(self.http.get(path))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        return self._answer(self.http.post(path, json=body, headers=headers))

    def reply(self, prompt: str) -> tuple[str, dict[str, Any]]:
        """The greedy reply to `prompt` and its details."""
        answer = self.post(
            "/generate", {"inputs": prompt, "parameters": {"max_new_tokens": REPLY_TOKENS, "details": True}}
        )
        return answer["generated_text"], answer["details"]

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise SystemExit(f"{response.request.method} {response.request.url.path}: {response.text}")
        return response.json()


@contextmanager
def daemon(state: Path, **settings: str) -> Iterator[Daemon]:
    """A daemon on `state`, ready to reply; stopped by SIGTERM at the end, as systemd would.

    `settings` are named as their environment variables are, in lower case: `runtime__threads="1"`. Nobody else's count.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LARS_AGENT_")}
    environment |= {"LARS_AGENT_SERVER__PORT": str(port), "LARS_AGENT_SCHEDULE__ENABLED": "false"}
    environment |= {"LARS_AGENT_DATA_DIR": str(state)}
    environment |= {f"LARS_AGENT_{name.upper()}": value for name, value in settings.items()}
    path = state / "daemon.log"
    with path.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "service", "serve"], env=environment, stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
                wait_until_healthy(http, process, state)
                yield Daemon(http, process, path)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(http: httpx.Client, process: subprocess.Popen[bytes], state: Path) -> None:
    """The daemon answers /health with 200. Exits with its log when it dies first."""
    while process.poll() is None:
        try:
            if http.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the daemon did not start:\n{(state / 'daemon.log').read_text()[-3000:]}")
