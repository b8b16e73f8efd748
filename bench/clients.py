"""A real daemon with versions of its own, and clients that keep asking it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from examples.running import Daemon, daemon
from lars_agent.errors import LarsError

CLIENT_COUNTS = (1, 2, 4)
TOKENS = 64
REPLIES_EACH = 4
PROMPTS = (
    "Describe the sea to someone who has never seen it.",
    "How is bread made?",
    "Tell me about the history of bicycles.",
    "What should one know before growing tomatoes?",
)


@contextmanager
def daemon_with(model: Path, versions: int, **settings: str) -> Iterator[Daemon]:
    """A daemon on a scratch folder whose default profile has so many versions, none of them in use."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        state = Path(folder)
        if versions:
            command = [
                sys.executable,
                "-P",
                "-m",
                "bench.publish_run",
                str(model),
                str(state / "adapters"),
                str(versions),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LarsError(f"no versions could be made: {done.stderr.strip().splitlines()[-1]}")
        with daemon(state, model__name=str(model), **settings) as running:
            yield running


@dataclass(frozen=True)
class Answer:
    """One reply as a client has it, with when it was asked for and when it was there."""

    prompt: str
    asked: float
    had: float
    status: int
    text: str = ""
    version: str = ""
    tokens: int = 0


@dataclass
class Client:
    """Asks for a reply to `prompt`, again and again, in a thread of its own, until it is told to stop."""

    url: str
    prompt: str
    tokens: int
    go_on: Callable[[int], bool]
    answers: list[Answer] = field(default_factory=list)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._ask_on)
        thread.start()
        return thread

    def _ask_on(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while self.go_on(len(self.answers)):
                self.answers.append(ask(http, self.prompt, self.tokens))


def ask(http: httpx.Client, prompt: str, tokens: int) -> Answer:
    """A greedy reply by the default profile; a connection that fails is an answer with status 0."""
    body = {"inputs": prompt, "parameters": {"adapter_id": "default", "max_new_tokens": tokens, "details": True}}
    asked = time.monotonic()
    try:
        response = http.post("/generate", json=body)
    except httpx.HTTPError:
        return Answer(prompt, asked, time.monotonic(), 0)
    had, answer = time.monotonic(), response.json()
    if response.is_error:
        return Answer(prompt, asked, had, response.status_code)
    details = answer["details"]
    return Answer(
        prompt, asked, had, 200, answer["generated_text"], details["adapter_version"], details["generated_tokens"]
    )


def throughput(model: Path, dtype: str, counts: Sequence[int] = CLIENT_COUNTS) -> dict[str, Any]:
    """Tokens a second of all replies together, by how many clients ask at once."""
    found = {}
    with daemon_with(model, 1, model__dtype=dtype) as running:
        running.post("/adapters/v1/activate", {})
        ask(running.http, PROMPTS[0], TOKENS)
        for count in counts:
            clients = [Client(str(running.http.base_url), PROMPTS[number], TOKENS, few) for number in range(count)]
            started = time.monotonic()
            for thread in [client.start() for client in clients]:
                thread.join()
            seconds = time.monotonic() - started
            found[str(count)] = round(sum(answer.tokens for one in clients for answer in one.answers) / seconds, 2)
    return {"dtype": dtype, "tokens_s": found}


def few(asked: int) -> bool:
    """Whether one of the clients of `throughput` goes on."""
    return asked < REPLIES_EACH
