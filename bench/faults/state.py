"""The state of a data folder on which no daemon works: jobs, the phase of the cycle, feedback, adapters."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lars_agent.errors import AdapterError
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.job_directory import RESULT_FILE, SPEC_FILE, read_progress
from service.db.records import UNFINISHED

DATABASE, ADAPTERS, JOBS = "lars-agent.db", "adapters", "jobs"
PHASES = ("start", "load", "snapshot", "planning", "training", "judging", "publishing")
Stored = tuple[str | None, str, str | None]  # a row's Idempotency-Key, id and comment; clients repeat the key there


@dataclass(frozen=True)
class Job:
    """The fields of a job that the bench needs."""

    id: str
    status: str
    version: int | str | None  # 3 in the database, "v3" in the API
    error: str | None

    @property
    def is_over(self) -> bool:
        return self.status not in UNFINISHED


def audit(state: Path, promised: Mapping[str, str]) -> dict[str, Any]:
    """The comparison of a data folder with what clients were promised: the id of each acknowledged key.

    `lost` and `duplicated` are the keys of feedback that is missing, or stored more than once; `unsound` the problems
    of the adapter store; `integrity` is `ok`, or SQLite's complaint about the database.
    """
    lost, duplicated = compare(promised, stored_feedback(state / DATABASE))
    found = {"acknowledged": len(promised), "lost": lost, "duplicated": duplicated}
    return found | {"unsound": store_problems(state), "integrity": integrity(state / DATABASE)}


def compare(promised: Mapping[str, str], rows: Iterable[Stored]) -> tuple[list[str], list[str]]:
    """Lost and duplicated keys. A row under another id than was promised is a loss; so is one without its key."""
    rows = list(rows)
    ids = {key: feedback_id for key, feedback_id, _ in rows if key is not None}
    comments = Counter(comment for _, _, comment in rows if comment is not None)
    lost = sorted(key for key, feedback_id in promised.items() if ids.get(key) != feedback_id)
    return lost, sorted(comment for comment, count in comments.items() if count > 1)


def stored_feedback(database: Path) -> list[Stored]:
    """Every row of feedback; none where the database cannot be read."""
    found = query(database, "SELECT idempotency_key, id, comment FROM feedback")
    return [] if isinstance(found, str) else found


def integrity(database: Path) -> str:
    """`ok`, or SQLite's complaint about the file."""
    if not database.exists():
        return "no database"
    found = query(database, "PRAGMA integrity_check")
    return found if isinstance(found, str) else str(found[0][0])


def jobs(state: Path) -> list[Job]:
    """Every job, oldest first; none where the database is damaged or has no tables yet."""
    found = query(state / DATABASE, "SELECT id, status, version, error FROM jobs ORDER BY seq")
    return [] if isinstance(found, str) else [Job(*row) for row in found]


def query(database: Path, statement: str) -> list[Any] | str:
    """All rows, or SQLite's complaint.

    A copy is read: opening the file itself would do the recovery that the next daemon has to do.
    """
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
        for suffix in ("", "-wal"):
            found = database.with_name(database.name + suffix)
            if found.exists():
                shutil.copyfile(found, Path(folder) / found.name)
        with closing(sqlite3.connect(Path(folder) / database.name)) as connection:
            try:
                return connection.execute(statement).fetchall()
            except sqlite3.DatabaseError as error:
                return str(error)


def phase(state: Path, job: Job | None, *, healthy: bool) -> str:
    """The phase of the newest job; `load` where none runs, `start` where the daemon does not reply yet."""
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
    """Tell whether the newest job, if it is none of those `known`, has come to the phase `aim` or further."""
    folders = sorted((state / JOBS).glob("j-*"))
    if not folders or folders[-1].name in known:
        return False
    running = Job(folders[-1].name, "running", None, None)
    return PHASES.index(phase(state, running, healthy=True)) >= PHASES.index(aim)


def store_problems(state: Path) -> list[str]:
    """The problems of the versions in the store, and of the pointers to them; empty where all is sound."""
    store = AdapterStore(state / ADAPTERS)
    found = []
    for profile in store.profiles():
        found += [f"{profile}: {problem}" for problem in store.problems(profile).values()]
        try:
            active = store.active(profile)
            if active is not None:
                store.verify(profile, active, None)
        except AdapterError as error:
            found.append(f"{profile}'s pointer: {error}")
    return found


def published_by(state: Path, profile: str) -> Counter[str]:
    """How many versions each job has published."""
    return Counter(manifest.job_id for manifest in AdapterStore(state / ADAPTERS).versions(profile))
