"""Nights, jobs and versions: their times, outcomes and numbers. Profiles are numbered, and no id is told."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import lars_agent.errors
from lars_agent.errors import LarsError
from lars_agent.files import read_plain
from lars_agent.lars.config import LarsConfig, PoolingName
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.records import to_dict
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.names import DEFAULT_PROFILE
from lars_agent.training.config import TrainConfig
from lars_agent.training.gate import Scores
from lars_agent.training.job_directory import read_progress
from service.db.read_only import ReadOnlyDatabase
from service.db.records import JobStatus, JobTrigger, RunOutcome
from service.settings.load import Settings
from service.support.allowed import count, each, fields_of, keys, literals, moment, number, numbers, one_of
from service.support.traces import traces
from service.worker.memory_limit import LimitKind
from service.worker.pause_reasons import PauseReason
from service.worker.process import LOG_NAME

JOBS, RUNS, FOLLOWED, STEPS = 50, 100, 3, 40  # the latest of each; jobs whose progress is told, and its last steps

ERRORS = one_of(
    name for name, kind in vars(lars_agent.errors).items() if isinstance(kind, type) and issubclass(kind, LarsError)
)
DTYPE = one_of(["auto", "bfloat16", "float32", "int8", "int4"])
TRAINING = numbers(*fields_of(TrainConfig))
SCORES = numbers(*fields_of(Scores))
PLANNED = (*fields_of(MemoryPlan), *fields_of(TrainConfig), "best_step", "steps_done")
PLAN = keys(**dict.fromkeys(PLANNED, number) | {"dtype": DTYPE})
LOSSES = numbers("train", "heldout")
CONFIG = keys(**dict.fromkeys(fields_of(LarsConfig), number) | {"pooling": one_of(get_args(PoolingName))})
RUN = keys(
    scheduled=moment, decided=moment, outcome=one_of(get_args(RunOutcome)), job_id=lambda job_id: job_id is not None
)
JOB = keys(
    trigger=one_of(get_args(JobTrigger)),
    status=one_of(get_args(JobStatus)),
    created=moment,
    started=moment,
    finished=moment,
    attempts=number,
    version=number,
    budget_bytes=number,
    peak_bytes=number,
    pauses=keys(**dict.fromkeys(literals(PauseReason), numbers("count", "seconds"))),
    spec=keys(
        dtype=DTYPE,
        threads=number,
        active_version=number,
        parent_version=number,
        memory_limit=one_of(get_args(LimitKind)),
        train=number,
        heldout=number,
        dropped=count,
        masked=count,
        seen=count,
        training=TRAINING,
        lars=CONFIG,
    ),
    result=keys(
        status=one_of(["succeeded", "failed"]),
        error_type=ERRORS,
        candidate=SCORES,
        incumbent=SCORES,
        base=SCORES,
        plan=PLAN,
        losses=LOSSES,
        stepped_down=count,
        **dict.fromkeys(
            ["best_step", "steps", "peak_bytes", "predicted_peak_bytes", "seconds", "cpu_seconds", "learned"], number
        ),
    ),
    verdict=keys(accepted=number),
)
STEP = keys(
    phase=one_of(["training", "judging", "done"]),
    **dict.fromkeys(
        ["step", "steps", "loss", "lr", "heldout_loss", "best_step", "rss_bytes", "elapsed_s", "cpu_s"], number
    ),
)
VERSION = keys(
    version=number,
    parent=number,
    created=moment,
    example_ids=count,
    config=CONFIG,
    plan=PLAN,
    peak_bytes=number,
    budget_bytes=number,
    losses=LOSSES,
    verdict=keys(accepted=number),
    schema=number,
)


class Numbering:
    """Gives each profile a number in place of its name."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def __call__(self, profile: str) -> str:
        """Return the profile's number; `default` is everybody's word."""
        if profile == DEFAULT_PROFILE:
            return profile
        return self._numbers.setdefault(profile, f"profile {len(self._numbers) + 1}")


def nights_told(db: ReadOnlyDatabase, numbering: Numbering) -> list[Any]:
    """Return the latest scheduled runs, newest first."""
    return [{"profile": numbering(run.profile)} | RUN(vars(run)) for run in db.scheduled_runs.list(limit=RUNS)]


def jobs_told(db: ReadOnlyDatabase, settings: Settings, numbering: Numbering) -> list[Any]:
    """Return the latest jobs, newest first, the first of them with their progress."""
    jobs = db.jobs.list(limit=JOBS)
    followed = {job.id: _progress(settings.jobs_dir / job.id) for job in jobs[:FOLLOWED]}
    return [{"profile": numbering(job.profile)} | JOB(vars(job)) | followed.get(job.id, {}) for job in jobs]


def versions_told(settings: Settings, numbering: Numbering) -> list[Any]:
    """Return every version of every profile, without those whose manifest cannot be read."""
    store = AdapterStore(settings.adapters_dir)
    return [
        {"profile": numbering(profile), "is_active": version.version == store.active(profile)}
        | VERSION(to_dict(version))
        for profile in store.profiles()
        for version in store.versions(profile)
    ]


def _progress(folder: Path) -> dict[str, Any]:
    """Return the last steps, and the lines of this program in the worker's log."""
    with suppress(OSError):
        log = read_plain(folder / LOG_NAME).decode(errors="replace")
        return {"progress": each(STEP)(read_progress(folder)[-STEPS:]), "log": traces(log)}
    return {}
