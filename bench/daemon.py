"""Clients that keep asking a daemon, and the scratch daemons, jobs and workers that several benches need."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.child import call, until
from bench.record import tables
from examples.running import Daemon, daemon
from lars_agent.errors import LarsError, last_line
from service.worker.process import DEFAULT_COMMAND, LOG_NAME, worker_environment

PROMPTS = (
    "Describe the sea to someone who has never seen it.",
    "How is bread made?",
    "Tell me about the history of bicycles.",
    "What should one know before growing tomatoes?",
)
STEP_LIMIT_S = 600.0
OK = 200
MB = 10**6


@dataclass(frozen=True)
class Answer:
    """One reply as a client has it, with the times of the request and of the reply; status 0 is a failed connection."""

    prompt: str
    asked: float
    had: float
    status: int
    text: str | None = None
    version: str = ""
    tokens: int = 0


def ask(http: httpx.Client, prompt: str, tokens: int, adapter: str = "default") -> Answer:
    """A greedy reply by the adapter alone."""
    parameters = {"adapter_id": adapter, "max_new_tokens": tokens, "recall": False}
    asked = time.monotonic()
    try:
        response = http.post("/generate", json={"inputs": prompt, "parameters": parameters})
    except httpx.HTTPError:
        return Answer(prompt, asked, time.monotonic(), 0)
    had = time.monotonic()
    if response.is_error:
        return Answer(prompt, asked, had, response.status_code)
    text, details = response.json()["generated_text"], response.json()["details"]
    return Answer(prompt, asked, had, OK, text, details["adapter_version"], details["generated_tokens"])


def wrong_replies(http: httpx.Client, answers: Iterable[Answer], tokens: int) -> list[str]:
    """Replies that differ from what the version that they name replies when asked again, alone."""
    good = [answer for answer in answers if answer.status == OK]
    asked = sorted({(answer.prompt, answer.version) for answer in good})
    right = {(prompt, version): ask(http, prompt, tokens, f"default@{version}").text for prompt, version in asked}
    return [
        f"{answer.version} replied {answer.text!r} to {answer.prompt!r}, not {right[answer.prompt, answer.version]!r}"
        for answer in good
        if answer.text != right[answer.prompt, answer.version]
    ]


@contextmanager
def asking(running: Daemon, prompts: Sequence[str], tokens: int) -> Iterator[list[Answer]]:
    """A client for each prompt, that asks until the end of the block; then the list holds all answers."""
    done, answers = threading.Event(), list[Answer]()

    def keep_asking(prompt: str) -> None:
        while not done.is_set():
            answers.append(ask(running.http, prompt, tokens))

    with ThreadPoolExecutor(len(prompts)) as pool:
        clients = pool.map(keep_asking, prompts)
        try:
            yield answers
        finally:
            done.set()
        list(clients)  # raises what they raised


def quick_settings() -> dict[str, str]:
    """Those of configs/quick.toml, under which a cycle takes seconds with the tiny model."""
    sections = tables("configs/quick.toml")
    return {f"{name}__{key}": str(value) for name, keys in sections.items() for key, value in keys.items()}


@contextmanager
def daemon_with(model: Path, versions: int, **settings: str) -> Iterator[Daemon]:
    """A daemon on a scratch folder whose default profile has that many versions, none of them active."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        state = Path(folder)
        if versions:
            call("bench.serve.child.publish", model, state / "adapters", versions)
        with daemon(state, model__name=str(model), **settings) as running:
            yield running


@contextmanager
def training_job(running: Daemon, steps: int) -> Iterator[str]:
    """A job that has taken so many steps, cancelled at the end of the block; yields its path in the API.

    Raises LarsError where it does not begin.
    """
    path = f"/jobs/{running.post('/jobs', {'profile': 'default'})['id']}"

    def is_there() -> bool:
        return any(line.get("step", 0) >= steps for line in running.get(f"{path}/progress")["progress"])

    if not until(is_there, STEP_LIMIT_S, 0.5):
        raise LarsError(f"the job did not begin: {running.get(path)}")
    yield path
    running.post(f"{path}/cancel", {})
    until(lambda: running.get(path)["finished"], STEP_LIMIT_S)


def descendants(pid: int, word: str = "") -> list[psutil.Process]:
    """The processes below `pid` with `word` in their command line."""
    found = []
    with suppress(psutil.Error):
        for one in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if word in " ".join(one.cmdline()):
                    found.append(one)
    return found


@contextmanager
def training_worker(folder: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker on the job directory, its output in a log there; killed at the end of the block."""
    command = [*DEFAULT_COMMAND, str(folder)]
    with (folder / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(
            command, env=worker_environment(threads), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def held_mb(process: psutil.Process) -> dict[str, float]:
    """Megabytes of the process and all below it: resident, and with shared pages divided among their users."""
    found = []
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # it has just ended
            found.append(one.memory_full_info())
    return {kind: round(sum(getattr(one, kind) for one in found) / MB, 2) for kind in ("rss", "pss")}


def worker_message(folder: Path) -> str:
    """The last line that the job's workers have written."""
    return last_line((folder / LOG_NAME).read_text(encoding="utf-8", errors="replace"))
