"""SIGKILL under load, at random moments and right before chosen steps.

Half of the random moments lie anywhere in the time that a start and a whole cycle take; the others are aimed at a short
phase of the cycle, and lie anywhere in the moment after it began. The daemon, its worker or its engine is killed.

For the steps around publishing and activation one cycle is run up to its verdict and kept; every kill begins from a
copy of that, and an unchanged daemon goes on.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.daemon import START_LIMIT_S, Target, ask
from bench.faults.clients import OK, PROMPTS, REPLY_TOKENS, Clients, within, wrong_replies
from bench.faults.injection import FAULTY, Fault
from bench.faults.scenario import CYCLE_LIMIT_S, Findings, Scenario, in_lanes
from bench.faults.state import PHASES, Audit, Job, has_begun, jobs, measured, phase, published_by, store_problems
from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore

TARGETS: Mapping[Target, int] = {"group": 40, "daemon": 30, "worker": 15, "engine": 15}  # percent
AIMED = 0.5
AIMS = {"snapshot": 0.05, "training": 1.5, "judging": 0.5, "publishing": 0.4}  # most seconds after it began
AIM_LIMIT = 3  # starts and whole cycles, after which a kill no longer waits for its phase
END_LIMIT_S, STOP_LIMIT_S, DIE_LIMIT_S = 240.0, 30.0, 120.0
COUNTED = range(20, 25)  # kills of a lane before which failed starts are counted, as they are without a bench


@dataclass(frozen=True)
class Kill:
    """One kill of `target`, `after_s` after the start, or after the phase `aim` began."""

    target: Target
    aim: str | None
    after_s: float


def kills(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """Findings of `count` kills, shared between as many daemons as there are cores (two at most)."""

    def work(lane: int, lanes: int, stop: threading.Event) -> Findings:
        return one_lane(tiny, count // lanes + (lane < count % lanes), f"{seed}-{lane}", stop)

    return with_all_phases(in_lanes(count, work).as_dict())


def with_all_phases(found: dict[str, Any]) -> dict[str, Any]:
    """Add the phases in which nothing was killed."""
    return found | {"phases": {name: found["phases"].get(name, 0) for name in PHASES}}


def draw_kill(rng: random.Random, span_s: float) -> Kill:
    """Draw one kill."""
    target = rng.choices(list(TARGETS), list(TARGETS.values()))[0]
    if rng.random() < AIMED:
        aim = rng.choice(list(AIMS))
        return Kill(target, aim, rng.uniform(0, AIMS[aim]))
    return Kill(target, None, rng.uniform(0, span_s))


def one_lane(tiny: Path, count: int, seed: str, stop: threading.Event) -> Findings:
    """Kill one daemon `count` times, then leave it alone, and audit everything."""
    rng, found = random.Random(seed), Findings()
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder, Scenario(Path(folder), tiny) as scenario:
        started = time.monotonic()
        scenario.learn(Clients(scenario.daemon.url, "first"), "the first cycle")
        span_s = time.monotonic() - started  # of a start and a cycle with nothing in their way
        with Clients(scenario.daemon.url, f"kills-{seed}") as clients:
            for number in range(count):
                if stop.is_set():
                    return found
                _round(scenario, draw_kill(rng, span_s), found, span_s, counted=number in COUNTED)
            _leave_alone(scenario, clients, found)
        _settle(scenario, clients, found)
    return found


def _round(scenario: Scenario, kill: Kill, found: Findings, span_s: float, *, counted: bool) -> None:
    """Run the daemon, kill the target at its moment, and look at the remains."""
    daemon, state, target = scenario.daemon, scenario.state, kill.target
    if daemon.process is None:
        (daemon.start if counted else daemon.restart)()
    healthy = _wait(scenario, kill, found, span_s)
    seen = None
    if target in ("worker", "engine"):  # the daemon lives on: the phase can only be asked before
        page = daemon.try_get("/jobs?limit=1", within_s=1.0) if healthy else None
        seen = phase(state, Job.of(page["jobs"][0]) if page and page["jobs"] else None, healthy=healthy)
    try:
        found.orphans += daemon.kill(target)
    except ProcessLookupError:  # there is none just now
        target, seen = "daemon", None
        found.orphans += daemon.kill(target)
    found.strikes += 1
    found.targets[target] += 1
    found.phases[seen or phase(state, next(reversed(jobs(state)), None), healthy=healthy)] += 1
    if daemon.process is None:
        found.unsound += store_problems(state)


def _wait(scenario: Scenario, kill: Kill, found: Findings, span_s: float) -> bool:
    """Wait for the moment of the kill; tell whether the daemon replies. Notes the seconds of a start waited for."""
    daemon, state, began = scenario.daemon, scenario.state, time.monotonic()
    known, healthy, restarted = measured(state), False, not daemon.is_healthy()
    safe_mode, aimed = False, began if kill.aim is None else None
    while time.monotonic() < began + AIM_LIMIT * span_s:
        if not healthy and (health := daemon.try_get("/health", within_s=1.0)) is not None:
            healthy, safe_mode = True, "safe_mode" in health.get("alarms", ())
            if restarted:
                found.restart_s.append(round(time.monotonic() - began, 3))
                found.safe_mode_starts += safe_mode
        if aimed is None and (safe_mode or (healthy and has_begun(state, str(kill.aim), known))):
            aimed = time.monotonic()
        if aimed is not None and time.monotonic() >= aimed + kill.after_s:
            break
        time.sleep(0.01)
    return healthy


def _leave_alone(scenario: Scenario, clients: Clients, found: Findings) -> None:
    """Let the cycles that were begun end, and another one after them succeed."""
    daemon = scenario.daemon
    if daemon.process is None:
        daemon.restart()
    daemon.wait_until_healthy(START_LIMIT_S)
    clients.begin_no_more()
    going, unfinished = within(END_LIMIT_S), -1
    while unfinished and going():
        page = daemon.try_get("/jobs?limit=1000")
        unfinished = -1 if page is None else sum(not Job.of(body).is_over for body in page["jobs"])
        time.sleep(0.2)
    if unfinished:
        found.stuck.append(f"{unfinished} jobs have not ended {END_LIMIT_S:.0f} s after the last kill")
    job = clients.cycle(within(CYCLE_LIMIT_S))
    found.last_cycle.append(job.status if job else "none")


def _settle(scenario: Scenario, clients: Clients, found: Findings) -> None:
    """Compare what clients were told with what there is."""
    found.replies = sum(answer.status == OK for answer in clients.answers)
    found.wrong_replies = wrong_replies(scenario.daemon.url, clients.answers)
    scenario.daemon.stop(STOP_LIMIT_S)
    found.add(Audit.of(scenario.state, clients.ledger.acknowledged))
    found.statuses.update(clients.ledger.statuses())
    ended, published = jobs(scenario.state), published_by(scenario.state, "default")
    found.endings.update(job.status for job in ended)
    found.stuck += [job.id for job in ended if not job.is_over]
    found.published_twice = [job_id for job_id, versions in published.items() if versions > 1]
    found.published_twice += [job.id for job in ended if job.status == "succeeded" and published[job.id] != 1]


class KeptCycle(Scenario):
    """A scenario whose data folder can be restored to a cycle right before its publishing."""

    def __init__(self, folder: Path, tiny: Path) -> None:
        super().__init__(folder, tiny)
        self.kept, self.report = folder / "kept", folder / "report"

    def prepare(self) -> None:
        """Activate one version, and keep the next one's cycle as it is before publishing."""
        clients = Clients(self.daemon.url, "before")
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
        Clients(self.daemon.url, "watch").wait_over(self.job_id, within(CYCLE_LIMIT_S))

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
    with Clients(kept.daemon.url, name, cycling=False) as clients:
        kept.start_faulty(kill_before=step)
        found.steps[kept.wait_dead()] += 1
        found.unsound += store_problems(kept.state)
        kept.daemon.restart()
        kept.wait_over()
        with httpx.Client(base_url=kept.daemon.url, timeout=60) as http:
            replying = ask(http, PROMPTS[0], REPLY_TOKENS).version
    kept.daemon.kill()
    found.strikes += 1
    found.add(Audit.of(kept.state, clients.ledger.acknowledged))
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
