"""A disk that becomes full at one write of the cycle after another: what is said, what is kept, what comes after.

The data folder lies on a small filesystem in memory. Right before the write a file takes all the room that is left;
when the cycle has ended, or has had its time, that file is removed, and another cycle has to succeed without a restart.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.clients import ask
from bench.faults_clients import PROMPTS, REPLY_TOKENS, Clients, learned
from bench.faults_daemon import Victim, new_state, quick
from bench.faults_filling import fill_up
from bench.faults_ledger import account, integrity, stored_feedback
from bench.faults_state import DATABASE, Job, faults, jobs
from bench.faulty_daemon import Fault
from bench.mounts import tmpfs
from lars_agent.errors import LarsError

SIZE_BYTES = 24 * 2**20
FIRE_LIMIT_S, FULL_S, NEXT_LIMIT_S = 180.0, 4.0, 240.0
POST_PAUSE_S = 0.4  # so that each commit needs room: a log that has been long before needs none until it is so again
LATER = 13  # eras: far from those before the disk was full
JOB = r"jobs/j-\w+/"
TEMP = r"\.\w+\.tmp"
STORE = r"adapters/default/"
POINTS = {
    "feedback": "database feedback add",
    "interaction": "database interactions add",
    "job's row": "database jobs add",
    "job begins": "database jobs started",
    "examples": rf"file {JOB}\.train\.jsonl{TEMP}",
    "job.json": rf"file {JOB}\.job\.json{TEMP}",
    "worker.json": rf"file {JOB}\.worker\.json{TEMP}",
    "plan.json": rf"file {JOB}\.plan\.json{TEMP}",
    "progress": rf"file {JOB}progress\.jsonl",
    "best adapter": rf"file {JOB}(\.?best.*)",
    "checkpoint": rf"file {JOB}\.checkpoint-\d+\.tmp/state\.safetensors",
    "checkpoint's record": rf"file {JOB}\.checkpoint-\d+\.tmp/\.progress\.json{TEMP}",
    "candidate": rf"file {JOB}.*candidate.*\.safetensors.*",
    "result.json": rf"file {JOB}\.result\.json{TEMP}",
    "verdict": "database jobs verdict",
    "published copy": rf"file {STORE}\.publish-\w+/adapter_model\.safetensors",
    "manifest": rf"file {STORE}\.publish-\w+/manifest\.json",
    "version's number": rf"file {STORE}\.last{TEMP}",
    "version's row": "database jobs version",
    "pointer": rf"file {STORE}\.active{TEMP}",
    "job ends": "database jobs finished",
}


def disk(tiny: Path, names: Sequence[str] = tuple(POINTS)) -> dict[str, Any]:
    """What was found at each point."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        kept = _one_version(Path(folder), tiny)
        return {"points": [_point(Path(folder), tiny, kept, name) for name in names]}


def _one_version(folder: Path, tiny: Path) -> Path:
    """A data folder with one version in use, cleanly closed."""
    kept = new_state(folder / "kept", tiny)
    with Victim(kept, folder / "first.log", quick(tiny)) as victim:
        victim.start()
        victim.wait_healthy()
        learned(victim, Clients(victim.url, "before"), NEXT_LIMIT_S, "the first cycle")
        victim.stop()
    return kept


def _point(folder: Path, tiny: Path, kept: Path, name: str) -> dict[str, Any]:
    """What came of a disk that is full from that write on."""
    report, found = folder / "report", dict[str, Any](name=name)
    report.unlink(missing_ok=True)
    with tmpfs(folder / "disk", SIZE_BYTES) as room:
        state = room / "state"
        shutil.copytree(kept, state, symlinks=True)
        fault = Fault(str(report), fill_at=POINTS[name], filler=str(room / "filler"))
        with Victim(state, folder / f"{name.replace(' ', '-')}.log", quick(tiny)) as victim:
            victim.start((sys.executable, "-m", "bench.faulty_daemon"), **fault.environment())
            victim.wait_healthy()
            with Clients(victim.url, f"disk-{name}", first_era=LATER, post_pause_s=POST_PAUSE_S) as clients:
                _while_full(victim, report, room / "filler", found)
                known = {job.id for job in _jobs(victim)}
                (room / "filler").unlink(missing_ok=True)
                _afterwards(victim, known, found)
                clients.begin_no_more()
            victim.stop()
        books = account(clients.ledger.acknowledged(), stored_feedback(state / DATABASE))
        found |= {"acknowledged": books.acknowledged, "lost": books.lost, "duplicated": books.duplicated}
        found |= {"statuses": clients.ledger.statuses(), "said": clients.ledger.words(), "unsound": faults(state)}
        found |= {"integrity": integrity(state / DATABASE)}
        found["jobs"] = [f"{job.status}: {job.error}" for job in jobs(state)]
    return found


def _while_full(victim: Victim, report: Path, filler: Path, found: dict[str, Any]) -> None:
    """The disk has become full, and what the daemon says and does then is noted."""
    until = time.monotonic() + FIRE_LIMIT_S
    while not report.exists():
        if time.monotonic() > until:
            raise LarsError(f"the disk did not become full at {found['name']!r}: {victim.said()}")
        time.sleep(0.02)
    _keep_full(filler)
    with httpx.Client(base_url=victim.url, timeout=30) as http:
        found["reply_while_full"] = ask(http, PROMPTS[0], REPLY_TOKENS).status
    found["jobs_while_full"] = [f"{job.status}: {job.error}" for job in _jobs(victim)]
    found["serving_while_full"] = (victim.get("/info") or {}).get("serving")


def _keep_full(filler: Path) -> None:
    """For a while what others free is taken at once, as by a program that goes on writing."""
    until = time.monotonic() + FULL_S
    while time.monotonic() < until:
        fill_up(filler)
        time.sleep(0.02)


def _afterwards(victim: Victim, known: set[str], found: dict[str, Any]) -> None:
    """There is room again: it replies, and a cycle that began since succeeds; it is noted how long that took."""
    with httpx.Client(base_url=victim.url, timeout=30) as http:
        answer = ask(http, PROMPTS[0], REPLY_TOKENS)
    found |= {"reply_after": answer.status, "version_after": answer.version, "next": "none"}
    started = time.monotonic()
    while time.monotonic() < started + NEXT_LIMIT_S and found["next"] == "none":
        ended = [job for job in _jobs(victim) if job.is_over and job.id not in known]
        found["next"] = ended[-1].status if ended else "none"
        time.sleep(0.1)
    found["next_s"] = round(time.monotonic() - started, 1)


def _jobs(victim: Victim) -> list[Job]:
    """The latest, newest first."""
    page = victim.get("/jobs?limit=10")
    return [Job.of(body) for body in page["jobs"]] if page else []
