"""A daemon that is killed and started again, and clients that keep asking it."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from bench.child import run_module
from examples.persona import MARA, read_lines
from examples.running import SERVE, Daemon, daemon
from lars_agent.errors import LarsError

Target = Literal["group", "daemon", "worker", "engine"]
MODULES = {"worker": "training.worker", "engine": "runtime.engine_server"}
START_COUNT = "starts.json"
KILLED_WITHIN_S, START_LIMIT_S, STOP_LIMIT_S = 10, 120.0, 30.0
QUICK = Path(__file__).parent / "configs" / "quick.toml"


@dataclass
class DaemonUnderTest(Daemon):
    """A daemon that can be killed, suspended and asked while it may be dead."""

    @classmethod
    def quick(cls, state: Path, model: Path, log: Path) -> DaemonUnderTest:
        """A daemon on `state` with the installed tiny model and settings under which a cycle takes seconds."""
        state.mkdir(parents=True, exist_ok=True)
        if not (state / "models").exists():
            (state / "models").symlink_to(model.parent)
        sections = tomllib.loads(QUICK.read_text(encoding="utf-8"))
        settings = {f"{name}__{key}": str(value) for name, keys in sections.items() for key, value in keys.items()}
        return cls(state, settings | {"model__name": str(model)}, log)

    def restart(self, command: Sequence[str] = SERVE, **environment: str) -> None:
        """Start it with the failed starts forgotten."""
        self.reset_start_count()
        self.start(command, **environment)

    def reset_start_count(self) -> None:
        """Forget the starts that failed, after several of which the daemon would be in safe mode."""
        (self.state / START_COUNT).unlink(missing_ok=True)

    def try_get(self, path: str, within_s: float = 20.0) -> Any:
        """The answer to GET; None where there is none."""
        try:
            response = httpx.get(self.url + path, timeout=within_s)
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success else None

    def kill(self, target: Target = "group") -> int:
        """Kill the target with SIGKILL; return how many of the daemon's processes outlived it by 10 s.

        Raises ProcessLookupError where there is no such process.
        """
        assert self.process is not None
        if target in MODULES:
            os.kill(self._pid(MODULES[target]), signal.SIGKILL)
            return 0
        children = self._children()
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if target == "group" else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        _, alive = psutil.wait_procs(children, timeout=KILLED_WITHIN_S)
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()
        return len(alive)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop all of its processes within the block."""
        assert self.process is not None
        stopped = []
        try:
            for one in [psutil.Process(self.process.pid), *reversed(self._children())]:
                with contextlib.suppress(psutil.Error):
                    was_paused = one.status() == psutil.STATUS_STOPPED
                    one.suspend()
                    if not was_paused:
                        stopped.append(one)
            yield
        finally:
            for one in stopped:
                with contextlib.suppress(psutil.Error):
                    one.resume()

    def _children(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _pid(self, module: str) -> int:
        for one in self._children():
            with contextlib.suppress(psutil.Error):
                if any(module in word for word in one.cmdline()):
                    return one.pid
        raise ProcessLookupError(f"there is no process of {module}")


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


def ask_on(url: str, prompt: str, tokens: int, go_on: Callable[[int], bool]) -> list[Answer]:
    """Ask for a reply again and again as long as `go_on(replies so far)` holds."""
    answers: list[Answer] = []
    with httpx.Client(base_url=url, timeout=120) as http:
        while go_on(len(answers)):
            answers.append(ask(http, prompt, tokens))
    return answers


@contextmanager
def asking(running: Daemon, prompts: Sequence[str], tokens: int) -> Iterator[list[Answer]]:
    """A client for each prompt, that asks until the end of the block; then the list holds all answers."""
    done, answers = threading.Event(), list[Answer]()
    with ThreadPoolExecutor(len(prompts)) as pool:
        futures = [pool.submit(ask_on, running.url, prompt, tokens, lambda _: not done.is_set()) for prompt in prompts]
        try:
            yield answers
        finally:
            done.set()
        answers += [answer for future in futures for answer in future.result()]


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
