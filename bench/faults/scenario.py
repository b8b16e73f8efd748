"""The daemon under test and what is done to it, and the findings of several such daemons side by side."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from bench.daemon import Answer, ask, descendants, quick_settings
from bench.faults.clients import PROMPTS, REPLY_TOKENS, Clients, within
from bench.faults.injection import FAULTY, VARIABLE
from bench.faults.state import Job
from bench.models import PREFIX, TINY
from examples.running import SERVE, Daemon
from lars_agent.errors import LarsError
from lars_agent.records import from_json

MODELS, TINY_NAME = "models", PREFIX + TINY
MODULES = {"worker": "training.worker", "engine": "runtime.engine_server"}
START_COUNT = "starts.json"
KILLED_WITHIN_S, START_LIMIT_S, STOP_LIMIT_S = 10, 120.0, 30.0
MOST_LANES = 2


@dataclass(frozen=True)
class FaultSettings:
    """How much of each part, from which seed, and the folder of the real base models."""

    seed: int
    kills: int
    points: int
    cuts: int
    disk: int
    models: Path


@dataclass
class DaemonUnderTest(Daemon):
    """A daemon that can be killed, suspended and asked while it may be dead; killed at the end of its block."""

    @property
    def report(self) -> Path:
        """The file for the report of a fault."""
        return self.log.with_suffix(".report")

    @classmethod
    def quick(cls, folder: Path, name: str) -> Self:
        """A daemon on `folder/<name>` with settings under which a cycle takes seconds, and the tiny model of `folder`.

        Its log is in `folder`, whatever is done to its data folder.
        """
        state = folder / name
        state.mkdir(parents=True, exist_ok=True)
        model, log = folder / MODELS / TINY_NAME, folder / f"{name.replace('/', '-')}.log"
        return cls(state, quick_settings() | {"model__name": str(model)}, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.kill()

    def restart(self, command: Sequence[str] = SERVE, **environment: str) -> None:
        """Start it with the failed starts forgotten, after several of which it would be in safe mode."""
        (self.state / START_COUNT).unlink(missing_ok=True)
        self.start(command, **environment)

    def start_faulty(self, **fault: Any) -> None:
        """Start it with a `Fault` built in."""
        self.report.unlink(missing_ok=True)
        self.restart(FAULTY, **{VARIABLE: json.dumps({"report": str(self.report), **fault})})

    def reported(self) -> list[str]:
        """What the last faulty daemon has reported."""
        return self.report.read_text(encoding="utf-8").splitlines() if self.report.exists() else []

    def learn(self, clients: Clients, what: str) -> None:
        """Start it and run a whole cycle. Raises LarsError, which calls the cycle `what`, unless it succeeds."""
        self.restart()
        self.wait_until_healthy(START_LIMIT_S)
        job = clients.cycle(within())
        if job is None or job.status != "succeeded":
            raise LarsError(f"{what} did not succeed ({job}): {self.log_tail()}")

    def jobs(self, limit: int = 10, within_s: float = 20.0) -> list[Job] | None:
        """The newest jobs, the last one first; None where there is no answer."""
        page = self.try_get(f"/jobs?limit={limit}", within_s)
        return None if page is None else [from_json(Job, body) for body in page["jobs"]]

    def ask(self) -> Answer:
        """A reply to one of the clients' prompts."""
        return ask(self.http, PROMPTS[0], REPLY_TOKENS)

    def kill(self, target: str = "group") -> int:
        """Kill the `group`, `daemon`, `worker` or `engine` with SIGKILL; return how many processes outlived it by 10 s.

        Raises ProcessLookupError where there is no such process.
        """
        assert self.process is not None
        if target in MODULES:
            found = descendants(self.process.pid, MODULES[target])
            if not found:
                raise ProcessLookupError(f"there is no process of {target}")
            os.kill(found[0].pid, signal.SIGKILL)
            return 0
        children = descendants(self.process.pid)
        with suppress(ProcessLookupError):
            (os.killpg if target == "group" else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        _, alive = psutil.wait_procs(children, timeout=KILLED_WITHIN_S)
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        return len(alive)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop all of its processes within the block."""
        assert self.process is not None
        stopped = []
        try:
            for one in [psutil.Process(self.process.pid), *reversed(descendants(self.process.pid))]:
                with suppress(psutil.Error):
                    if one.status() != psutil.STATUS_STOPPED:
                        one.suspend()
                        stopped.append(one)
            yield
        finally:
            for one in stopped:
                with suppress(psutil.Error):
                    one.resume()


@dataclass
class Findings:
    """Counts, and descriptions of what was wrong, of the kills of one lane."""

    strikes: int = 0
    acknowledged: int = 0
    orphans: int = 0
    replies: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)  # before which the daemon was killed
    steps_there_are: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    wrong_replies: list[str] = field(default_factory=list)
    published_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def add(self, audited: dict[str, Any]) -> None:
        """Add an audit's losses; a damaged database is unsound too."""
        self.acknowledged += audited["acknowledged"]
        self.unsound += [audited["integrity"]] if audited["integrity"] != "ok" else []
        for name in ("lost", "duplicated", "unsound"):
            getattr(self, name).extend(audited[name])

    def __add__(self, other: Findings) -> Findings:
        return Findings(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def in_lanes(count: int, work: Callable[[int, int, threading.Event], Findings]) -> Findings:
    """Sum the findings of `work(lane, lanes, stop)` in as many lanes as there are cores, two at most."""
    lanes, stop = min(MOST_LANES, os.cpu_count() or 1, count), threading.Event()
    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(work, lane, lanes, stop) for lane in range(lanes)]
        try:
            first, *others = [future.result() for future in futures]
        finally:
            stop.set()
    return sum(others, start=first)
