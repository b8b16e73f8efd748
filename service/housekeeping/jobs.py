"""Records, directories and checkpoints of jobs that have ended, directories of no job, and deleted feedback in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from lars_agent.errors import AdapterError
from lars_agent.files import write_atomically
from lars_agent.training.job_directory import CANDIDATE, HELDOUT_FILE, TRAIN_FILE
from service.backup.folder import outdated_of_updates
from service.backup.swap import replaced_states
from service.db.records import JUDGED, ErasureRecord, JobSummary
from service.housekeeping.retention import Item, Limits
from service.housekeeping.sweep import Sweep, discard, taken_bytes

ORPHAN_DAYS = 1.0
CHECKPOINT, BEST_FILE, TEMP = "checkpoint-", "best.safetensors", ".tmp"  # as training names them


def tidy_jobs(sweep: Sweep) -> None:
    """Remove what ended jobs have left past its limits, and deleted feedback; other jobs are not touched."""
    keep, jobs_dir = sweep.settings.retention, sweep.settings.jobs_dir

    def remove_record(job_id: str) -> None:
        """Remove the record, and the directory before it."""
        if (folder := jobs_dir / job_id).is_dir():
            size_bytes = taken_bytes(folder)
            discard(folder)
            sweep.report.add("job_folders", size_bytes)
        sweep.db.jobs.delete(job_id)

    with sweep.step("jobs"):
        paths = jobs_dir.iterdir() if jobs_dir.is_dir() else ()  # before the rows: a job has its row first
        folders = {path.name: path for path in paths if path.is_dir() and not path.is_symlink()}
        jobs = sweep.db.jobs.summaries()
        ended = [job for job in jobs if job.is_over]
        present = [job for job in ended if job.id in folders]
        orphans = folders.keys() - {job.id for job in jobs}
        sweep.remove_expired(
            "leftovers",
            (Item(job.id, job.at, taken_bytes(*found)) for job in present if (found := _leftovers(folders[job.id]))),
            Limits(keep.checkpoint_days, keep.checkpoint_bytes),
            lambda job_id: discard(*_leftovers(folders[job_id])),
        )
        sweep.remove_expired(
            "job_folders",
            (Item(job.id, job.at, taken_bytes(folders[job.id])) for job in present),
            Limits(keep.job_folder_days, keep.job_folder_bytes),
            lambda job_id: discard(folders[job_id]),
        )
        sweep.remove_expired("jobs", _records(sweep, ended), Limits(keep.job_days, keep.job_bytes), remove_record)
        sweep.remove_expired(
            "job_folders",
            (Item(name, _modified(folders[name]), taken_bytes(folders[name])) for name in orphans),
            Limits(days=ORPHAN_DAYS),
            lambda name: discard(folders[name]),
        )
        _forget_examples(sweep, (job.id for job in present))


def forget(sweep: Sweep) -> None:
    """Remove what was learned from deleted feedback from the directories of ended jobs, and note it in the erasures."""
    failures, erasures = sweep.report.failures, sweep.db.erasures
    latest = max((erasure.created for erasure in erasures.list(limit=1)), default=None)
    with sweep.step("replaced"):
        for replaced, folder in replaced_states(sweep.settings.data_dir):
            if latest is not None and replaced < latest:  # it holds what was deleted since
                discard(folder)
    tidy_update_backups(sweep, latest)
    waiting = list[ErasureRecord]()  # what is deleted from now on has its own round
    with sweep.step("forgetting"):
        waiting = erasures.pending("jobs", "checkpoints")
        gone = {one.encode() for erasure in waiting for one in erasure.feedback}
        _forget_examples(sweep, (job.id for job in sweep.db.jobs.summaries() if job.is_over), gone)
    with sweep.step("erasures"):
        unfinished = sweep.db.jobs.unfinished()
        for erasure in waiting:
            is_read = any(job.profile in erasure.profiles and job.created < erasure.created for job in unfinished)
            if not is_read and sweep.report.failures == failures:
                erasures.mark(erasure, "jobs", "checkpoints")


def tidy_update_backups(sweep: Sweep, erased: datetime | None = None) -> None:
    """Remove the backups that installations of a new version made, but for the newest ones and none before `erased`."""
    with sweep.step("update_backups"):
        for one in outdated_of_updates(sweep.settings.data_dir, erased):
            discard(one.path)


def strip(path: Path, known: Callable[[Collection[str]], set[str]], before: Callable[[], object] = lambda: None) -> int:
    """Remove the lines of `path` whose source is not `known`, or that are no example; return their number.

    A line that names no source is of no feedback, and stays. `before` is called first where there are such lines.
    """
    with path.open("rb") as file:
        sources = [_source(line) for line in file]
    wanted = {"", *known({source for source in sources if source})}
    gone = sum(source not in wanted for source in sources)
    if gone:
        before()
        with path.open("rb") as file:
            write_atomically(path, (line for line, source in zip(file, sources, strict=True) if source in wanted))
    return gone


def _forget_examples(sweep: Sweep, job_ids: Iterable[str], gone: Collection[bytes] | None = None) -> None:
    """Remove deleted feedback from the jobs' directories, and the adapters that learned it before that.

    Where it is told which ids are `gone`, files that have none of them are passed over: a year has many jobs.
    """
    for job_id in job_ids:
        folder = sweep.settings.jobs_dir / job_id
        for name in (TRAIN_FILE, HELDOUT_FILE):
            with sweep.step("forgetting", job=job_id, file=name):
                path = folder / name
                if path.is_file() and (gone is None or _has_any(path, gone)):
                    size_bytes = taken_bytes(path, *_adapters(folder))
                    count = strip(path, sweep.db.feedback.known, partial(discard, *_adapters(folder)))
                    if count:
                        sweep.report.add("examples", size_bytes - taken_bytes(path), count)


def _has_any(path: Path, words: Collection[bytes]) -> bool:
    content = path.read_bytes()
    return any(word in content for word in words)


def _adapters(folder: Path) -> list[Path]:
    return [folder / CANDIDATE, *_leftovers(folder)]


def _source(line: bytes) -> str | None:
    """Return the id of the feedback that the line came from, None if the line cannot be read."""
    try:
        return str(json.loads(line).get("source_id", ""))
    except (ValueError, AttributeError):
        return None


def _records(sweep: Sweep, ended: Sequence[JobSummary]) -> Iterator[Item[str]]:
    """Yield the records; protected are those of present versions, and each profile's last verdict.

    The next scheduled run compares the feedback with that verdict's job.
    """
    store = sweep.store
    judged = {job.profile: job.id for job in ended if job.status in JUDGED}  # oldest first: the last one stays
    protected = {*judged.values()}
    protected |= {found.job_id for profile in store.profiles() for found in store.versions(profile)}
    for job in ended:
        if job.version is not None:
            with contextlib.suppress(AdapterError):
                store.folder(job.profile, job.version)  # also where its manifest cannot be read
                protected.add(job.id)
    yield from (Item(job.id, job.at, job.bytes, job.id in protected) for job in ended)


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _leftovers(folder: Path) -> list[Path]:
    """Return the checkpoints and temporary files, which no ended job resumes from."""
    return [
        path
        for path in folder.iterdir()
        if path.name.startswith(CHECKPOINT)
        or path.name == BEST_FILE
        or (path.name.startswith(".") and path.name.endswith(TEMP))
    ]
