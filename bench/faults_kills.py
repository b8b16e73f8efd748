"""`kill -9` at moments that nobody chose, under load, again and again: of the daemon, its worker, or its engine.

Half of the moments lie anywhere in the time that a start and a whole cycle take; the others are aimed at a phase of the
cycle that is short, and lie anywhere in the moment after it began.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.faults_clients import Clients, learned, wrong_replies
from bench.faults_daemon import Target, Victim, new_state, quick
from bench.faults_lanes import Findings, in_lanes, summed
from bench.faults_ledger import account, integrity, stored_feedback
from bench.faults_state import DATABASE, PHASES, Job, faults, has_begun, jobs, measured, phase, published_by

TARGETS: Mapping[Target, int] = {"group": 40, "daemon": 30, "worker": 15, "engine": 15}  # and how often of a hundred
AIMED = 0.5
AIMS = {"snapshot": 0.05, "training": 1.5, "judging": 0.5, "publishing": 0.4}  # most seconds after it began
AIM_LIMIT = 3  # starts and whole cycles, before a strike falls that has waited for its phase
CYCLE_LIMIT_S, END_LIMIT_S = 120.0, 240.0
UNFORGIVEN = range(20, 25)  # strikes of a lane before which failed starts are counted, as they are without a bench


@dataclass(frozen=True)
class Strike:
    """One kill: of what, and when: `after_s` after the start, or after the phase `aim` began."""

    target: Target
    aim: str | None
    after_s: float


@dataclass
class Lane(Findings):
    """One daemon's strikes, and what was found."""

    targets: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    replies: int = 0
    safe_mode_starts: int = 0
    restart_s: list[float] = field(default_factory=list)
    last_cycle: list[str] = field(default_factory=list)


def kills(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """What was found in `count` strikes, shared between as many daemons as there are cores (two at most)."""

    def work(number: int, lanes: int, stop: threading.Event) -> Lane:
        share = count // lanes + (number < count % lanes)
        return one_lane(tiny, share, f"{seed}-{number}", stop)

    return together(in_lanes(count, work))


def drawn(dice: random.Random, span_s: float) -> Strike:
    """One strike of those that make up a share of all."""
    target = dice.choices(list(TARGETS), list(TARGETS.values()))[0]
    if dice.random() < AIMED:
        aim = dice.choice(list(AIMS))
        return Strike(target, aim, dice.uniform(0, AIMS[aim]))
    return Strike(target, None, dice.uniform(0, span_s))


def together(lanes: list[Lane]) -> dict[str, Any]:
    """The sum of the lanes, as JSON; phases in which nobody was struck are there too."""
    found = summed(lanes)
    return found | {"phases": {name: found["phases"].get(name, 0) for name in PHASES}}


def one_lane(tiny: Path, count: int, seed: str, stop: threading.Event) -> Lane:
    """One daemon is struck `count` times, then left alone, and everything is counted."""
    dice, lane = random.Random(seed), Lane()
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        state = new_state(Path(folder) / "state", tiny)
        with Victim(state, Path(folder) / "daemon.log", quick(tiny)) as victim:
            span_s = _whole_cycle(victim)
            with Clients(victim.url, f"kills-{seed}") as clients:
                for number in range(count):
                    if stop.is_set():
                        return lane
                    _round(victim, drawn(dice, span_s), lane, span_s, counted=number in UNFORGIVEN)
                _leave_alone(victim, clients, lane)
            _settle(victim, clients, lane)
    return lane


def _whole_cycle(victim: Victim) -> float:
    """Seconds that a start and the cycle after it take, with nothing in their way."""
    started = time.monotonic()
    victim.start()
    victim.wait_healthy()
    learned(victim, Clients(victim.url, "first"), CYCLE_LIMIT_S, "the first cycle")
    return time.monotonic() - started


def _round(victim: Victim, strike: Strike, lane: Lane, span_s: float, *, counted: bool) -> None:
    """The daemon runs, is struck, and what it left is looked at."""
    if victim.process is None:
        if not counted:
            victim.forgive()
        victim.start()
    healthy = _wait(victim, strike, lane, span_s)
    target, seen = strike.target, None
    if target in ("worker", "engine"):  # the daemon lives on: where the cycle stood can only be asked before
        seen = _phase_now(victim, healthy=healthy)
    try:
        lane.orphans += victim.strike(target)
    except ProcessLookupError:  # there is none just now
        target, seen = "daemon", None
        lane.orphans += victim.strike(target)
    lane.strikes += 1
    lane.targets[target] += 1
    lane.phases[seen or phase(victim.state, _newest(jobs(victim.state)), healthy=healthy)] += 1
    if victim.process is None:
        lane.unsound += faults(victim.state)


def _wait(victim: Victim, strike: Strike, lane: Lane, span_s: float) -> bool:
    """Whether the daemon replies, at the moment of the strike; if a start was waited for, it is noted how long."""
    began = time.monotonic()
    known, healthy, restarted = measured(victim.state), False, not victim.is_healthy()
    safe_mode, aimed = False, began if strike.aim is None else None
    while time.monotonic() < began + AIM_LIMIT * span_s:
        if not healthy and (health := victim.health()) is not None:
            healthy, safe_mode = True, "safe_mode" in health.get("alarms", ())
            if restarted:
                lane.restart_s.append(round(time.monotonic() - began, 3))
                lane.safe_mode_starts += safe_mode
        if aimed is None and (safe_mode or (healthy and has_begun(victim.state, str(strike.aim), known))):
            aimed = time.monotonic()
        if aimed is not None and time.monotonic() >= aimed + strike.after_s:
            break
        time.sleep(0.01)
    return healthy


def _phase_now(victim: Victim, *, healthy: bool) -> str:
    page = victim.get("/jobs?limit=1", within_s=1.0) if healthy else None
    newest = Job.of(page["jobs"][0]) if page and page["jobs"] else None
    return phase(victim.state, newest, healthy=healthy)


def _newest(found: list[Job]) -> Job | None:
    return found[-1] if found else None


def _leave_alone(victim: Victim, clients: Clients, lane: Lane) -> None:
    """No more strikes: what was begun has ended, and a cycle after it succeeds."""
    if victim.process is None:
        victim.forgive()
        victim.start()
    victim.wait_healthy()
    clients.begin_no_more()
    until = time.monotonic() + END_LIMIT_S
    while (found := _unfinished(victim)) != 0 and time.monotonic() < until:
        time.sleep(0.2)
    if found:
        lane.stuck.append(f"{found} jobs have not ended {END_LIMIT_S:.0f} s after the last kill")
    job = clients.cycle(CYCLE_LIMIT_S)
    lane.last_cycle.append(job.status if job else "none")


def _unfinished(victim: Victim) -> int | None:
    page = victim.get("/jobs?limit=1000")
    return None if page is None else sum(not Job.of(body).is_over for body in page["jobs"])


def _settle(victim: Victim, clients: Clients, lane: Lane) -> None:
    """What clients were told is compared with what there is."""
    lane.replies = sum(answer.status == 200 for answer in clients.answers)
    lane.wrong_replies = wrong_replies(victim.url, clients.answers)
    victim.stop()
    books = account(clients.ledger.acknowledged(), stored_feedback(victim.state / DATABASE))
    lane.acknowledged, lane.lost, lane.duplicated = books.acknowledged, list(books.lost), list(books.duplicated)
    lane.statuses.update(clients.ledger.statuses())
    ended = jobs(victim.state)
    lane.endings.update(job.status for job in ended)
    lane.stuck += [job.id for job in ended if not job.is_over]
    lane.unsound += faults(victim.state)
    published = published_by(victim.state, "default")
    lane.published_twice = [job_id for job_id, versions in published.items() if versions > 1]
    lane.published_twice += [job.id for job in ended if job.status == "succeeded" and published.get(job.id) != 1]
    lane.integrity.append(integrity(victim.state / DATABASE))
