"""SIGKILL at random moments under load, again and again: of the daemon, its worker, or its engine.

Half of the moments lie anywhere in the time that a start and a whole cycle take; the others are aimed at a short phase
of the cycle, and lie anywhere in the moment after it began.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.daemon import START_LIMIT_S, Target
from bench.faults.clients import OK, Clients, within, wrong_replies
from bench.faults.scenario import CYCLE_LIMIT_S, Findings, Scenario, in_lanes
from bench.faults.state import PHASES, Job, has_begun, jobs, measured, phase, published_by, store_problems

TARGETS: Mapping[Target, int] = {"group": 40, "daemon": 30, "worker": 15, "engine": 15}  # percent
AIMED = 0.5
AIMS = {"snapshot": 0.05, "training": 1.5, "judging": 0.5, "publishing": 0.4}  # most seconds after it began
AIM_LIMIT = 3  # starts and whole cycles, after which a kill no longer waits for its phase
END_LIMIT_S, STOP_LIMIT_S = 240.0, 30.0
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
        scenario.learn(scenario.clients("first"), "the first cycle")
        span_s = time.monotonic() - started  # of a start and a cycle with nothing in their way
        with scenario.clients(f"kills-{seed}") as clients:
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
    found.add(scenario.audit(clients.ledger.acknowledged))
    found.statuses.update(clients.ledger.statuses())
    ended, published = jobs(scenario.state), published_by(scenario.state, "default")
    found.endings.update(job.status for job in ended)
    found.stuck += [job.id for job in ended if not job.is_over]
    found.published_twice = [job_id for job_id, versions in published.items() if versions > 1]
    found.published_twice += [job.id for job in ended if job.status == "succeeded" and published[job.id] != 1]
