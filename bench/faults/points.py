"""SIGKILL right before a chosen step around publishing and activation; then an unchanged daemon that goes on.

One cycle is run up to its verdict and kept; every kill begins from a copy of that.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bench.daemon import START_LIMIT_S
from bench.faults.clients import PROMPTS, REPLY_TOKENS, within
from bench.faults.injection import FAULTY, Fault
from bench.faults.scenario import CYCLE_LIMIT_S, Findings, Scenario, in_lanes
from bench.faults.state import jobs, published_by, store_problems
from bench.serve.clients import ask
from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore

DIE_LIMIT_S, STOP_LIMIT_S = 120.0, 30.0


class KeptCycle(Scenario):
    """A scenario whose data folder can be restored to a cycle right before its publishing."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        super().__init__(folder, tiny)
        self.kept, self.report = folder / "kept", folder / "report"

    def prepare(self) -> None:
        """Activate one version, and keep the next one's cycle as it is before publishing."""
        clients = self.clients("before")
        self.learn(clients, "the first cycle")
        self.daemon.stop(STOP_LIMIT_S)
        self.start_faulty(kill_before=0)
        self.daemon.wait_until_healthy(START_LIMIT_S)
        clients.begin_cycle(within(CYCLE_LIMIT_S))
        self.wait_dead()
        shutil.copytree(self.state, self.kept, symlinks=True)
        self.job_id = jobs(self.kept)[-1].id

    def restore(self) -> None:
        """Replace the data folder by the kept one."""
        shutil.rmtree(self.state)
        shutil.copytree(self.kept, self.state, symlinks=True)

    def start_faulty(self, **fault: Any) -> None:
        """Start a daemon with the fault."""
        self.report.unlink(missing_ok=True)
        self.daemon.restart(FAULTY, **Fault(str(self.report), **fault).environment())

    def wait_dead(self) -> str:
        """The step before which the daemon killed itself. Raises LarsError where it did not."""
        process = self.daemon.process
        assert process is not None
        process.wait(timeout=DIE_LIMIT_S)
        steps = self.steps()
        if process.returncode != -signal.SIGKILL or len(steps) != 1:
            raise LarsError(f"the fault did not fire (exit status {process.returncode}): {self.daemon.log_tail()}")
        self.daemon.kill()  # its worker and engine
        return steps[0]

    def wait_over(self) -> None:
        """Wait until the kept job has ended."""
        self.daemon.wait_until_healthy(START_LIMIT_S)
        self.clients("watch").wait_over(self.job_id, within(CYCLE_LIMIT_S))

    def steps(self) -> list[str]:
        """The steps that the last faulty daemon has reported."""
        return self.report.read_text(encoding="utf-8").splitlines() if self.report.exists() else []

    def all_steps(self) -> list[str]:
        """Every step from publishing to the end of the cycle."""
        self.restore()
        self.start_faulty()
        self.wait_over()
        self.daemon.kill()
        return self.steps()


def points(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """Findings of `count` kills, shared between as many folders as there are cores (two at most)."""

    def work(lane: int, lanes: int, stop: threading.Event) -> Findings:
        found = Findings()
        with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder, KeptCycle(Path(folder), tiny) as kept:
            kept.prepare()
            steps = kept.all_steps()
            found.steps_there_are = [] if lane else steps
            for number, step in enumerate(spread(len(steps), count, seed)):
                if number % lanes == lane and not stop.is_set():
                    _kill_before(kept, step, f"points-{number}", found)
        return found

    return in_lanes(count, work).as_dict()


def spread(total: int, count: int, seed: int) -> list[int]:
    """`count` of the steps from 0 to `total` - 1: spread evenly, or all of them and some again."""
    if count <= total:
        return [number * total // count for number in range(count)]
    return [*range(total), *sorted(random.Random(seed).choices(range(total), k=count - total))]


def _kill_before(kept: KeptCycle, step: int, name: str, found: Findings) -> None:
    """Kill a daemon before the step, let another one finish, and audit."""
    kept.restore()
    with kept.clients(name, cycling=False) as clients:
        kept.start_faulty(kill_before=step)
        found.steps[kept.wait_dead()] += 1
        found.unsound += store_problems(kept.state)
        kept.daemon.restart()
        kept.wait_over()
        with httpx.Client(base_url=kept.daemon.url, timeout=60) as http:
            replying = ask(http, PROMPTS[0], REPLY_TOKENS).version
    kept.daemon.kill()
    found.strikes += 1
    found.add(kept.audit(clients.ledger.acknowledged))
    job = next(job for job in jobs(kept.state) if job.id == kept.job_id)
    found.endings.update(Counter([job.status]))
    if not job.is_over:
        found.stuck.append(f"{job.id} before step {step}")
    active, versions = AdapterStore(kept.state / "adapters").active("default"), published_by(kept.state, "default")
    if (job.status, versions[job.id]) != ("succeeded", 1):
        found.published_twice.append(f"before step {step}: {job.status} ({job.error}), {versions[job.id]} versions")
    if job.version != active or replying != f"v{active}":
        found.wrong_replies.append(
            f"before step {step}: published v{job.version}, active {active}, replying {replying}"
        )
