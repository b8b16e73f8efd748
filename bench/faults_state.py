"""What a data folder says while no daemon works with it: where the cycle stood, and whether every adapter is sound."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults_ledger import opened_copy
from lars_agent.errors import AdapterError
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.job_directory import RESULT_FILE, SPEC_FILE, read_progress

DATABASE, ADAPTERS, JOBS = "lars-agent.db", "adapters", "jobs"
UNFINISHED = ("queued", "running", "paused")
PHASES = ("start", "load", "snapshot", "planning", "training", "judging", "publishing")


@dataclass(frozen=True)
class Job:
    """A row of the jobs, as far as it is asked for here."""

    id: str
    status: str
    version: int | None
    error: str | None

    @property
    def is_over(self) -> bool:
        return self.status not in UNFINISHED

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Job:
        """From what the API says of it."""
        label = body["version"]
        version = int(label.removeprefix("v")) if isinstance(label, str) else label
        return cls(body["id"], body["status"], version, body["error"])


def jobs(state: Path) -> list[Job]:
    """Every job, oldest first; none where the database has not been made yet."""
    if not (state / DATABASE).exists():
        return []
    with opened_copy(state / DATABASE) as connection:
        try:
            rows = connection.execute("SELECT id, status, version, error FROM jobs ORDER BY seq").fetchall()
        except sqlite3.DatabaseError:  # killed before its tables were made, or damaged
            return []
    return [Job(*row) for row in rows]


def phase(state: Path, job: Job | None, *, healthy: bool) -> str:
    """Where the newest job stands, `load` where none runs, `start` where the daemon does not reply yet."""
    if not healthy:
        return "start"
    if job is None or job.is_over:
        return "load"
    folder = state / JOBS / job.id
    if not (folder / SPEC_FILE).exists():
        return "snapshot"
    if (folder / RESULT_FILE).exists():
        return "publishing"
    lines = read_progress(folder)
    if not lines:
        return "planning"
    return "training" if lines[-1]["phase"] == "training" else "judging"


def measured(state: Path) -> set[str]:
    """The ids of the jobs whose worker has left a result."""
    return {path.parent.name for path in (state / JOBS).glob(f"j-*/{RESULT_FILE}")}


def has_begun(state: Path, aim: str, known: set[str]) -> bool:
    """Whether the newest job, which is none of those `known`, has come to the phase `aim`, or further."""
    folders = sorted((state / JOBS).glob("j-*"))
    if not folders or folders[-1].name in known:
        return False
    running = Job(folders[-1].name, "running", None, None)
    return PHASES.index(phase(state, running, healthy=True)) >= PHASES.index(aim)


def faults(state: Path) -> list[str]:
    """What is wrong with the versions in the store, and with the pointers to them; empty where all is sound."""
    store = AdapterStore(state / ADAPTERS)
    found = []
    for profile in store.profiles():
        problems = store.problems(profile)
        found += [f"{profile}: {words}" for words in problems.values()]
        try:
            active = store.active(profile)
            if active is not None:
                store.verify(profile, active, None)
        except AdapterError as error:
            found.append(f"{profile}'s pointer: {error}")
    return found


def published_by(state: Path, profile: str) -> dict[str, int]:
    """How many versions each job has published."""
    counts: dict[str, int] = {}
    for manifest in AdapterStore(state / ADAPTERS).versions(profile):
        counts[manifest.job_id] = counts.get(manifest.job_id, 0) + 1
    return counts
