"""`kill -9` right before a chosen step around publishing and putting in use; then a daemon as it is, which goes on.

One cycle is brought as far as its verdict and kept; every strike begins from a copy of that.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.clients import ask
from bench.faults_clients import PROMPTS, REPLY_TOKENS, Clients, learned
from bench.faults_daemon import Victim, new_state, quick
from bench.faults_kills import CYCLE_LIMIT_S
from bench.faults_lanes import Findings, in_lanes, summed
from bench.faults_ledger import account, integrity, stored_feedback
from bench.faults_state import DATABASE, faults, jobs, published_by
from bench.faulty_daemon import Fault
from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore

FAULTY = ("-m", "bench.faulty_daemon")
DIE_LIMIT_S = 120.0


@dataclass
class Found(Findings):
    """What the strikes of one folder found."""

    steps: Counter[str] = field(default_factory=Counter)  # before which it was killed


class Place:
    """A folder in which strikes are made: the state, the state as it is before each, and the daemon's log."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        self.folder, self.kept, self.report = folder, folder / "kept", folder / "report"
        self.state = new_state(folder / "state", tiny)
        self.victim = Victim(self.state, folder / "daemon.log", quick(tiny))

    def faulty(self, **fault: Any) -> None:
        """A daemon with the fault has been started."""
        self.report.unlink(missing_ok=True)
        self.victim.forgive()
        self.victim.start((sys.executable, *FAULTY), **Fault(str(self.report), **fault).environment())

    def steps(self) -> list[str]:
        """What the last faulty daemon has reported."""
        return self.report.read_text(encoding="utf-8").splitlines() if self.report.exists() else []

    def prepare(self) -> None:
        """One version is in use, and the cycle of the next one stands before its publishing, in the kept copy."""
        victim = self.victim
        victim.start()
        victim.wait_healthy()
        clients = Clients(victim.url, "before")
        learned(victim, clients, CYCLE_LIMIT_S, "the first cycle")
        victim.stop()
        self.faulty(kill_before=0)
        victim.wait_healthy()
        clients.begin_cycle(CYCLE_LIMIT_S)
        self.wait_dead()
        shutil.copytree(self.state, self.kept, symlinks=True)

    def restore(self) -> None:
        """The state is as it was kept."""
        shutil.rmtree(self.state)
        shutil.copytree(self.kept, self.state, symlinks=True)

    def wait_dead(self) -> str:
        """The step before which the daemon killed itself. Raises LarsError where it did not."""
        process = self.victim.process
        assert process is not None
        process.wait(timeout=DIE_LIMIT_S)
        steps = self.steps()
        if process.returncode != -signal.SIGKILL or len(steps) != 1:
            raise LarsError(f"the fault did not fire (exit status {process.returncode}): {self.victim.said()}")
        self.victim.strike("group")  # what it has left behind
        return steps[0]

    def all_steps(self) -> list[str]:
        """Every step from publishing to the end of the cycle."""
        self.restore()
        self.faulty()
        self.wait_over()
        self.victim.strike("group")
        return self.steps()

    def wait_over(self) -> None:
        """The job that was left has ended."""
        self.victim.wait_healthy()
        Clients(self.victim.url, "watch").wait_over(jobs(self.kept)[-1].id, CYCLE_LIMIT_S)


def points(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """What was found in `count` strikes, shared between as many folders as there are cores (two at most)."""
    found = in_lanes(count, lambda lane, lanes, stop: one_lane(tiny, count, lane, lanes, seed, stop))
    return {"steps_there_are": found[0][0], **summed([own for _, own in found])}


def chosen(total: int, count: int, seed: int) -> list[int]:
    """`count` of the steps from 0 to `total` - 1: spread evenly, or all of them and some again."""
    if count <= total:
        return [number * total // count for number in range(count)]
    return [*range(total), *sorted(random.Random(seed).choices(range(total), k=count - total))]


def one_lane(
    tiny: Path, count: int, lane: int, lanes: int, seed: int, stop: threading.Event
) -> tuple[Sequence[str], Found]:
    """The steps that there are, and what every `lanes`-th strike found."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        place = Place(Path(folder), tiny)
        with place.victim:
            place.prepare()
            steps = place.all_steps()
            for number, step in enumerate(chosen(len(steps), count, seed)):
                if number % lanes == lane and not stop.is_set():
                    _strike(place, step, f"points-{number}", found)
    return steps, found


def _strike(place: Place, step: int, name: str, found: Found) -> None:
    """A daemon dies before the step, another one ends what it left, and all is counted."""
    place.restore()
    job_id = jobs(place.state)[-1].id
    with Clients(place.victim.url, name, cycling=False) as clients:
        place.faulty(kill_before=step)
        found.steps[place.wait_dead()] += 1
        found.unsound += faults(place.state)
        place.victim.forgive()
        place.victim.start()
        place.wait_over()
        reply = _reply(place.victim.url)
    place.victim.strike("group")
    found.strikes += 1
    job = next(job for job in jobs(place.state) if job.id == job_id)
    found.endings[job.status] += 1
    if not job.is_over:
        found.stuck.append(f"{job_id} before step {step}")
    active = AdapterStore(place.state / "adapters").active("default")
    versions = published_by(place.state, "default").get(job_id, 0)
    if (job.status, versions) != ("succeeded", 1):
        found.published_twice.append(f"before step {step}: {job.status} ({job.error}), {versions} versions")
    if job.version != active or reply != f"v{active}":
        found.wrong_replies.append(f"before step {step}: published v{job.version}, in use {active}, replying {reply}")
    found.unsound += faults(place.state)
    books = account(clients.ledger.acknowledged(), stored_feedback(place.state / DATABASE))
    found.acknowledged += books.acknowledged
    found.lost += books.lost
    found.duplicated += books.duplicated
    if (words := integrity(place.state / DATABASE)) != "ok":
        found.integrity.append(words)


def _reply(url: str) -> str:
    """The version that replies now."""
    with httpx.Client(base_url=url, timeout=60) as http:
        return ask(http, PROMPTS[0], REPLY_TOKENS).version
