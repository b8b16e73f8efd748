"""A daemon under load and faults on a scratch folder, and the findings of several such daemons side by side."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.daemon import START_LIMIT_S, DaemonUnderTest
from bench.faults.clients import Clients, within
from bench.faults.state import Audit
from lars_agent.errors import LarsError

MOST_LANES = 2
CYCLE_LIMIT_S = 240.0


@dataclass
class Findings:
    """Counts, and descriptions of what was wrong, of the kills of one lane."""

    strikes: int = 0
    acknowledged: int = 0
    orphans: int = 0
    replies: int = 0
    safe_mode_starts: int = 0
    targets: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)  # before which the daemon was killed
    steps_there_are: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    last_cycle: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    wrong_replies: list[str] = field(default_factory=list)
    published_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    integrity: list[str] = field(default_factory=list)

    def add(self, audit: Audit) -> None:
        """Add an audit's losses."""
        self.acknowledged += audit.acknowledged
        self.lost += audit.lost
        self.duplicated += audit.duplicated
        self.unsound += audit.unsound
        self.integrity.append(audit.integrity)

    def __add__(self, other: Findings) -> Findings:
        return Findings(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


class Scenario:
    """A daemon with the tiny model on `folder/<name>`, killed on leaving the block, and its clients."""

    def __init__(self, folder: Path, tiny: Path, name: str = "state", log: str = "daemon.log") -> None:
        self.folder, self.state = folder, folder / name
        self.daemon = DaemonUnderTest.quick(self.state, tiny, folder / log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.daemon.process is not None:
            self.daemon.kill()

    def learn(self, clients: Clients, what: str) -> None:
        """Start the daemon and run a whole cycle. Raises LarsError, which calls it `what`, unless it succeeds."""
        self.daemon.restart()
        self.daemon.wait_until_healthy(START_LIMIT_S)
        job = clients.cycle(within(CYCLE_LIMIT_S))
        if job is None or job.status != "succeeded":
            raise LarsError(f"{what} did not succeed ({job}): {self.daemon.log_tail()}")


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
