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
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.child import until
from bench.daemon import OK, wrong_replies
from bench.faults.clients import CYCLE_LIMIT_S, REPLY_TOKENS, Clients, within
from bench.faults.scenario import START_LIMIT_S, STOP_LIMIT_S, DaemonUnderTest, FaultSettings, Findings, in_lanes
from bench.faults.state import audit, has_begun, jobs, measured, phase, published_by, store_problems
from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore

TARGETS: Mapping[str, int] = {"group": 40, "daemon": 30, "worker": 15, "engine": 15}  # percent
AIMED = 0.5
AIMS = {"snapshot": 0.05, "training": 1.5, "judging": 0.5, "publishing": 0.4}  # most seconds after it began
AIM_LIMIT = 3  # starts and whole cycles, after which a kill no longer waits for its phase
END_LIMIT_S, DIE_LIMIT_S = 240.0, 120.0
COUNTED = range(20, 25)  # kills of a lane before which failed starts are counted, as they are without a bench


@dataclass(frozen=True)
class Kill:
    """One kill of `target`, `after_s` after the start, or after the phase `aim` began."""

    target: str
    aim: str | None
    after_s: float


def kills(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """Findings of the kills, shared between as many daemons as there are cores (two at most)."""
    return vars(in_lanes(settings.kills, partial(one_lane, settings, folder)))


def draw_kill(rng: random.Random, span_s: float) -> Kill:
    target = rng.choices(list(TARGETS), list(TARGETS.values()))[0]
    if rng.random() < AIMED:
        aim = rng.choice(list(AIMS))
        return Kill(target, aim, rng.uniform(0, AIMS[aim]))
    return Kill(target, None, rng.uniform(0, span_s))


def one_lane(settings: FaultSettings, folder: Path, lane: int, lanes: int, stop: threading.Event) -> Findings:
    """Kill one daemon again and again, then leave it alone, and audit everything."""
    seed = f"{settings.seed}-{lane}"
    rng, found = random.Random(seed), Findings()
    with DaemonUnderTest.quick(folder, f"state-{seed}") as daemon:
        started = time.monotonic()
        daemon.learn(Clients(daemon.url, "first"), "the first cycle")
        span_s = time.monotonic() - started  # of a start and a cycle with nothing in their way
        with Clients(daemon.url, f"kills-{seed}") as clients:
            for number in range(lane, settings.kills, lanes):
                if stop.is_set():
                    return found
                _round(daemon, draw_kill(rng, span_s), found, span_s, counted=number // lanes in COUNTED)
            _leave_alone(daemon, clients, found)
        _settle(daemon, clients, found)
    return found


def _round(daemon: DaemonUnderTest, kill: Kill, found: Findings, span_s: float, *, counted: bool) -> None:
    """Run the daemon, kill the target at its moment, and look at the remains."""
    target = kill.target
    if daemon.process is None:
        (daemon.start if counted else daemon.restart)()
    healthy = _wait(daemon, kill, found, span_s)
    seen = None
    if target in ("worker", "engine"):  # the daemon lives on: the phase can only be asked before
        newest = daemon.jobs(1, within_s=1.0) if healthy else None
        seen = phase(daemon.state, newest[0] if newest else None, healthy=healthy)
    try:
        found.orphans += daemon.kill(target)
    except ProcessLookupError:  # there is none just now
        target, seen = "daemon", None
        found.orphans += daemon.kill(target)
    found.strikes += 1
    found.targets[target] += 1
    found.phases[seen or phase(daemon.state, next(reversed(jobs(daemon.state)), None), healthy=healthy)] += 1
    if daemon.process is None:
        found.unsound += store_problems(daemon.state)


def _wait(daemon: DaemonUnderTest, kill: Kill, found: Findings, span_s: float) -> bool:
    """Wait for the moment of the kill; tell whether the daemon replies. Notes the seconds of a start waited for."""
    began, known = time.monotonic(), measured(daemon.state)
    healthy, restarted, safe_mode = False, not daemon.is_healthy(), False
    aimed = began if kill.aim is None else None
    while time.monotonic() < began + AIM_LIMIT * span_s:
        if not healthy and (health := daemon.try_get("/health", within_s=1.0)) is not None:
            healthy, safe_mode = True, "safe_mode" in health.get("alarms", ())
            if restarted:
                found.restart_s.append(round(time.monotonic() - began, 3))
        if aimed is None and (safe_mode or (healthy and has_begun(daemon.state, str(kill.aim), known))):
            aimed = time.monotonic()
        if aimed is not None and time.monotonic() >= aimed + kill.after_s:
            break
        time.sleep(0.01)
    return healthy


def _leave_alone(daemon: DaemonUnderTest, clients: Clients, found: Findings) -> None:
    """Let the cycles that were begun end, and another one after them succeed."""
    if daemon.process is None:
        daemon.restart()
    daemon.wait_until_healthy(START_LIMIT_S)
    clients.enough.set()
    if not until(lambda: (known := daemon.jobs(1000)) and all(job.is_over for job in known), END_LIMIT_S, 0.2):
        found.stuck.append(f"not all jobs have ended {END_LIMIT_S:.0f} s after the last kill")
    job = clients.cycle(within())
    if job is None or job.status != "succeeded":
        found.stuck.append(f"the cycle after the last kill: {job}")


def _settle(daemon: DaemonUnderTest, clients: Clients, found: Findings) -> None:
    """Compare what clients were told with what there is."""
    found.replies = sum(answer.status == OK for answer in clients.replies)
    found.wrong_replies = wrong_replies(daemon.http, clients.replies, REPLY_TOKENS)
    daemon.stop(STOP_LIMIT_S)
    found.add(audit(daemon.state, clients.acknowledged))
    ended, published = jobs(daemon.state), published_by(daemon.state, "default")
    found.endings.update(job.status for job in ended)
    found.stuck += [job.id for job in ended if not job.is_over]
    found.published_twice = [job_id for job_id, versions in published.items() if versions > 1]
    found.published_twice += [job.id for job in ended if job.status == "succeeded" and published[job.id] != 1]


class KeptCycle(DaemonUnderTest):
    """A daemon whose data folder can be restored to a cycle right before its publishing."""

    def prepare(self) -> None:
        """Activate one version, and keep the next one's cycle as it is before publishing."""
        self.kept = self.state.with_name(self.state.name + "-kept")
        clients = Clients(self.url, "before")
        self.learn(clients, "the first cycle")
        self.stop(STOP_LIMIT_S)
        self.start_faulty(kill_before=0)
        self.wait_until_healthy(START_LIMIT_S)
        clients.begin_cycle(within())
        self.wait_dead()
        shutil.copytree(self.state, self.kept, symlinks=True)
        self.job_id = jobs(self.kept)[-1].id

    def start_kept(self, kill_before: int | None = None) -> None:
        """Start it on the kept data folder, to die before that step."""
        shutil.rmtree(self.state)
        shutil.copytree(self.kept, self.state, symlinks=True)
        self.start_faulty(kill_before=kill_before)

    def wait_dead(self) -> str:
        """The step before which the daemon killed itself. Raises LarsError where it did not."""
        assert self.process is not None
        exit_status, steps = self.process.wait(timeout=DIE_LIMIT_S), self.reported()
        if exit_status != -signal.SIGKILL or len(steps) != 1:
            raise LarsError(f"the fault did not fire (exit status {exit_status}): {self.log_tail()}")
        self.kill()  # its worker and engine
        return steps[0]

    def wait_over(self) -> None:
        """Wait until the kept job has ended."""
        self.wait_until_healthy(START_LIMIT_S)
        until(lambda: any(job.id == self.job_id and job.is_over for job in self.jobs() or []), CYCLE_LIMIT_S)

    def all_steps(self) -> list[str]:
        """Every step from publishing to the end of the cycle."""
        self.start_kept()
        self.wait_over()
        self.kill()
        return self.reported()


def points(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """Findings of the kills, shared between as many daemons as there are cores (two at most)."""

    def work(lane: int, lanes: int, stop: threading.Event) -> Findings:
        found = Findings()
        with KeptCycle.quick(folder, f"state-{lane}") as kept:
            kept.prepare()
            steps = kept.all_steps()
            found.steps_there_are = [] if lane else steps
            for number, step in enumerate(spread(len(steps), settings.points, settings.seed)):
                if number % lanes == lane and not stop.is_set():
                    _kill_before(kept, step, f"points-{number}", found)
        return found

    return vars(in_lanes(settings.points, work))


def spread(total: int, count: int, seed: int) -> list[int]:
    """`count` of the steps from 0 to `total` - 1: spread evenly, or all of them and some again."""
    if count <= total:
        return [number * total // count for number in range(count)]
    return [*range(total), *sorted(random.Random(seed).choices(range(total), k=count - total))]


def _kill_before(kept: KeptCycle, step: int, name: str, found: Findings) -> None:
    """Kill a daemon before the step, let another one finish, and audit."""
    with Clients(kept.url, name, cycling=False) as clients:
        kept.start_kept(step)
        found.steps[kept.wait_dead()] += 1
        found.unsound += store_problems(kept.state)
        kept.restart()
        kept.wait_over()
        replying = kept.ask().version
    kept.kill()
    found.strikes += 1
    found.add(audit(kept.state, clients.acknowledged))
    job = next(job for job in jobs(kept.state) if job.id == kept.job_id)
    found.endings[job.status] += 1
    if not job.is_over:
        found.stuck.append(f"{job.id} before step {step}")
    active, versions = AdapterStore(kept.state / "adapters").active("default"), published_by(kept.state, "default")
    if (job.status, versions[job.id]) != ("succeeded", 1):
        found.published_twice.append(f"before step {step}: {job.status} ({job.error}), {versions[job.id]} versions")
    if job.version != active or replying != f"v{active}":
        found.wrong_replies.append(
            f"before step {step}: published v{job.version}, active {active}, replying {replying}"
        )
