"""What jobs that have ended leave: records, directories, checkpoints; and directories that belong to no job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lars_agent.errors import AdapterError
from service.db import JobSummary
from service.housekeeping.disk_room import discard, taken_bytes
from service.housekeeping.forgetting import forget_examples
from service.housekeeping.retention import Item, Limits, expired
from service.housekeeping.sweep import Round

ORPHAN_DAYS = 1.0
JUDGED = ("succeeded", "rejected")
CHECKPOINT, BEST_FILE, TEMP = "checkpoint-", "best.safetensors", ".tmp"  # as training names them

Folders = Mapping[str, Path]  # by the job's id


def tidy_jobs(work: Round) -> None:
    """Jobs that have ended keep to their limits, and to what is left of the feedback; the others are not touched."""
    with work.going_on("jobs"):
        folders = _folders(work.settings.jobs_dir)  # before the rows: a job has its row before its directory
        jobs = work.db.jobs.summaries()
        ended = [job for job in jobs if job.is_over]
        _drop_leftovers(work, ended, folders)
        _drop_folders(work, ended, folders)
        _drop_records(work, ended)
        _drop_orphans(work, {name: path for name, path in folders.items() if name not in {job.id for job in jobs}})
        forget_examples(work, (job.id for job in ended if job.id in folders))


def forget(work: Round) -> None:
    """No job that has ended keeps examples whose feedback is gone."""
    with work.going_on("forgetting"):
        forget_examples(work, (job.id for job in work.db.jobs.summaries() if job.is_over))


def _drop_leftovers(work: Round, ended: Sequence[JobSummary], folders: Folders) -> None:
    """A job that has ended goes on from no checkpoint."""
    keep = work.settings.retention
    with work.going_on("leftovers"):
        found = {job.id: list(_leftovers(folders[job.id])) for job in ended if job.id in folders}
        items = [Item(job.id, job.at, taken_bytes(*found[job.id])) for job in ended if found.get(job.id)]
        sizes = {item.id: item.bytes for item in items}
        for job_id in expired(items, Limits(keep.checkpoint_days, keep.checkpoint_bytes), work.now):
            with work.going_on("leftovers", job=job_id):
                for path in found[job_id]:
                    discard(path)
                work.report.leftovers += 1
                work.report.freed_bytes += sizes[job_id]


def _drop_folders(work: Round, ended: Sequence[JobSummary], folders: Folders) -> None:
    keep = work.settings.retention
    with work.going_on("job_folders"):
        items = [Item(job.id, job.at, taken_bytes(folders[job.id])) for job in ended if job.id in folders]
        for job_id in expired(items, Limits(keep.job_folder_days, keep.job_folder_bytes), work.now):
            with work.going_on("job_folders", job=job_id):
                _drop_folder(work, folders[job_id])


def _drop_records(work: Round, ended: Sequence[JobSummary]) -> None:
    """A record that goes takes its directory with it."""
    keep = work.settings.retention
    with work.going_on("job_records"):
        asked_for = _asked_for(work, ended)
        items = [Item(job.id, job.at, job.bytes, job.id in asked_for) for job in ended]
        sizes = {job.id: job.bytes for job in ended}
        for job_id in expired(items, Limits(keep.job_days, keep.job_bytes), work.now):
            with work.going_on("job_records", job=job_id):
                if (folder := work.settings.jobs_dir / job_id).is_dir():
                    _drop_folder(work, folder)
                work.db.jobs.delete(job_id)
                work.report.jobs += 1
                work.report.freed_bytes += sizes[job_id]


def _drop_orphans(work: Round, folders: Folders) -> None:
    """What a daemon that died, or a job whose record is gone, has left."""
    with work.going_on("orphans"):
        items = [Item(path, datetime.fromtimestamp(path.stat().st_mtime, UTC)) for path in folders.values()]
        for path in expired(items, Limits(days=ORPHAN_DAYS), work.now):
            with work.going_on("orphans", folder=path.name):
                _drop_folder(work, path)


def _drop_folder(work: Round, folder: Path) -> None:
    size_bytes = taken_bytes(folder)
    discard(folder)
    work.report.job_folders += 1
    work.report.freed_bytes += size_bytes


def _asked_for(work: Round, ended: Sequence[JobSummary]) -> set[str]:
    """Jobs whose records are still asked for: by a version they made, or by the next night, which looks for news."""
    store = work.store
    judged = {job.profile: job.id for job in ended if job.status in JUDGED}  # the oldest come first: the last one stays
    makers = {found.job_id for profile in store.profiles() for found in store.versions(profile)}
    for job in ended:
        if job.version is not None:
            with contextlib.suppress(AdapterError):
                store.folder(job.profile, job.version)  # also where its manifest cannot be read
                makers.add(job.id)
    return makers.union(judged.values())


def _folders(jobs_dir: Path) -> dict[str, Path]:
    paths = jobs_dir.iterdir() if jobs_dir.is_dir() else ()
    return {path.name: path for path in paths if path.is_dir() and not path.is_symlink()}


def _leftovers(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        temporary = path.name.startswith(".") and path.name.endswith(TEMP)
        if temporary or path.name.startswith(CHECKPOINT) or path.name == BEST_FILE:
            yield path
