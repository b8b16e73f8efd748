"""Clients that keep asking a real daemon, and what it is given to learn."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.child import run_module
from examples.persona import MARA, read_lines
from examples.running import Daemon, daemon
from lars_agent.errors import LarsError

PROMPTS = (
    "Describe the sea to someone who has never seen it.",
    "How is bread made?",
    "Tell me about the history of bicycles.",
    "What should one know before growing tomatoes?",
)
STEP_LIMIT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """One reply as a client has it, with the times of the request and of the reply; status 0 is a failed connection."""

    prompt: str
    asked: float
    had: float
    status: int
    text: str = ""
    version: str = ""
    tokens: int = 0


def ask(http: httpx.Client, prompt: str, tokens: int, adapter: str = "default") -> Answer:
    """A greedy reply by the adapter."""
    parameters = {"adapter_id": adapter, "max_new_tokens": tokens, "details": True}
    asked = time.monotonic()
    try:
        response = http.post("/generate", json={"inputs": prompt, "parameters": parameters})
    except httpx.HTTPError:
        return Answer(prompt, asked, time.monotonic(), 0)
    had = time.monotonic()
    if response.is_error:
        return Answer(prompt, asked, had, response.status_code)
    answer, details = response.json(), response.json()["details"]
    text, version = answer["generated_text"], details["adapter_version"]
    return Answer(prompt, asked, had, 200, text, version, details["generated_tokens"])


@dataclass
class Client:
    """Asks for a reply to `prompt` again and again, in a thread, as long as `go_on(replies so far)` holds."""

    url: str
    prompt: str
    tokens: int
    go_on: Callable[[int], bool]
    answers: list[Answer] = field(default_factory=list)

    def run(self) -> None:
        """Ask in the calling thread."""
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while self.go_on(len(self.answers)):
                self.answers.append(ask(http, self.prompt, self.tokens))


@contextmanager
def asking(running: Daemon, prompts: Sequence[str], tokens: int) -> Iterator[list[Client]]:
    """A client for each prompt, that asks until the end of the block."""
    done = threading.Event()
    with together(running, prompts, tokens, lambda asked: not done.is_set()) as clients:
        try:
            yield clients
        finally:
            done.set()


@contextmanager
def together(
    running: Daemon, prompts: Sequence[str], tokens: int, go_on: Callable[[int], bool]
) -> Iterator[list[Client]]:
    """A client for each prompt, each in a thread that has ended at the end of the block."""
    clients = [Client(running.url, prompt, tokens, go_on) for prompt in prompts]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        for thread in threads:
            thread.join()


@contextmanager
def daemon_with(model: Path, versions: int, **settings: str) -> Iterator[Daemon]:
    """A daemon on a scratch folder whose default profile has that many versions, none of them active."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        state = Path(folder)
        if versions:
            run_module("bench.serve.child", "publish", model, state / "adapters", versions)
        with daemon(state, model__name=str(model), **settings) as running:
            yield running


def store_persona(running: Daemon) -> None:
    """Store the persona's feedback."""
    for line in read_lines(MARA / "feedback.jsonl"):
        running.post("/feedback", line)


@contextmanager
def training_job(running: Daemon, steps: int) -> Iterator[str]:
    """A job that has taken so many steps, cancelled at the end of the block; yields its path in the API.

    Raises LarsError where it does not begin.
    """
    path = f"/jobs/{running.post('/jobs', {'profile': 'default'})['id']}"
    until = time.monotonic() + STEP_LIMIT_S
    while steps_of(running, path) < steps:
        if time.monotonic() > until:
            raise LarsError(f"the job did not begin: {running.get(path)}")
        time.sleep(0.5)
    yield path
    running.post(f"{path}/cancel", {})
    while running.get(path)["finished"] is None:
        time.sleep(0.1)


def steps_of(running: Daemon, path: str) -> int:
    """How many steps the job has taken."""
    return sum(bool(line.get("step")) for line in running.get(f"{path}/progress")["progress"])
