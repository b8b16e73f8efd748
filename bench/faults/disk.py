"""A disk that becomes full at one write of the cycle after another.

The data folder lies on a small filesystem in memory. Right before the write a file takes all the room that is left;
when the cycle has ended, or has had its time, that file is removed, and another cycle has to succeed without a restart.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from bench.daemon import START_LIMIT_S, DaemonUnderTest
from bench.faults.clients import PROMPTS, REPLY_TOKENS, within
from bench.faults.injection import FAULTY, Fault, fill_up
from bench.faults.mounts import tmpfs
from bench.faults.scenario import CYCLE_LIMIT_S, Scenario
from bench.faults.state import Job, jobs
from bench.serve.clients import Answer, ask
from lars_agent.errors import LarsError

SIZE_BYTES = 24 * 2**20
FIRE_LIMIT_S, FULL_S, STOP_LIMIT_S = 180.0, 4.0, 30.0
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
    """Findings at each point, every one beginning from a data folder with one version in use."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as name:
        folder = Path(name)
        with Scenario(folder, tiny, "kept", "first.log") as scenario:
            scenario.learn(scenario.clients("before"), "the first cycle")
            scenario.daemon.stop(STOP_LIMIT_S)
        return {"points": [_point(folder, tiny, name) for name in names]}


def _point(folder: Path, tiny: Path, name: str) -> dict[str, Any]:
    """Findings with a disk that is full from that write on."""
    report, filler = folder / "report", folder / "disk" / "filler"
    report.unlink(missing_ok=True)
    with tmpfs(folder / "disk", SIZE_BYTES):
        shutil.copytree(folder / "kept", folder / "disk" / "state", symlinks=True)
        with Scenario(folder, tiny, "disk/state", f"{name.replace(' ', '-')}.log") as scenario:
            fault = Fault(str(report), fill_at=POINTS[name], filler=str(filler))
            scenario.daemon.restart(FAULTY, **fault.environment())
            scenario.daemon.wait_until_healthy(START_LIMIT_S)
            with scenario.clients(f"disk-{name}", first_era=LATER, post_pause_s=POST_PAUSE_S) as clients:
                found = {"name": name, **_while_full(scenario.daemon, report, filler, name)}
                known = {job.id for job in _latest(scenario.daemon)}
                filler.unlink(missing_ok=True)
                found |= _afterwards(scenario.daemon, known)
                clients.begin_no_more()
            scenario.daemon.stop(STOP_LIMIT_S)
        found |= asdict(scenario.audit(clients.ledger.acknowledged))
        found |= {"statuses": clients.ledger.statuses(), "said": clients.ledger.messages()}
        return found | {"jobs": [f"{job.status}: {job.error}" for job in jobs(scenario.state)]}


def _while_full(daemon: DaemonUnderTest, report: Path, filler: Path, name: str) -> dict[str, Any]:
    """Wait until the disk becomes full, keep it full for a while, and record what the daemon does then."""
    going = within(FIRE_LIMIT_S)
    while not report.exists():
        if not going():
            raise LarsError(f"the disk did not become full at {name!r}: {daemon.log_tail()}")
        time.sleep(0.02)
    going = within(FULL_S)
    while going():  # what others free is taken at once, as by a program that goes on writing
        fill_up(filler)
        time.sleep(0.02)
    return {
        "reply_while_full": _ask(daemon).status,
        "jobs_while_full": [f"{job.status}: {job.error}" for job in _latest(daemon)],
        "serving_while_full": (daemon.try_get("/info") or {}).get("serving"),
    }


def _afterwards(daemon: DaemonUnderTest, known: set[str]) -> dict[str, Any]:
    """Ask for a reply once there is room again, and wait for a cycle that began since; record how long that took."""
    answer, ended = _ask(daemon), list[Job]()
    started, going = time.monotonic(), within(CYCLE_LIMIT_S)
    while going() and not ended:
        ended = [job for job in _latest(daemon) if job.is_over and job.id not in known]
        time.sleep(0.1)
    following = ended[-1].status if ended else "none"
    seconds = round(time.monotonic() - started, 1)
    return {"reply_after": answer.status, "version_after": answer.version, "next": following, "next_s": seconds}


def _ask(daemon: DaemonUnderTest) -> Answer:
    with httpx.Client(base_url=daemon.url, timeout=30) as http:
        return ask(http, PROMPTS[0], REPLY_TOKENS)


def _latest(daemon: DaemonUnderTest) -> list[Job]:
    page = daemon.try_get("/jobs?limit=10")
    return [Job.of(body) for body in page["jobs"]] if page else []
