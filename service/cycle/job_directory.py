"""Write a job's directory for the worker: examples, parent adapter and settings; decide if a scheduled job has news."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lars_agent.errors import AdapterIncompatible, NothingToLearn
from lars_agent.example import Example
from lars_agent.files import make_folder
from lars_agent.records import to_dict, to_json
from lars_agent.training.curate import Curated, curate
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from service.cycle.context import CycleContext
from service.db.records import JobRecord
from service.settings.load import Settings


def write_job_directory(
    job: JobRecord, examples: Sequence[Example], curated: Curated, context: CycleContext
) -> JobRecord:
    """Write everything the worker needs and return the job with what was recorded of that in its row.

    job.json comes last and marks the directory as complete.
    """
    active, parent = _incumbent(job.profile, context)
    folder, asked = context.folder(job.id), (job.fine_tuning or {}).get("training", {})
    spec = _spec(job.id, job.profile, parent, context, asked)
    record = to_dict(spec) | {
        "active_version": active,
        "parent_version": parent,
        "fingerprint": _fingerprint(examples, context),
        "seen": sorted({example.source_id for example in examples}),
        "inherited": _inherited(job.profile, parent, spec, context),
        "train": len(curated.train),
        "heldout": len(curated.heldout),
        "dropped": [asdict(dropped) for dropped in curated.dropped],
        "masked": [asdict(masked) for masked in curated.masked],
    }
    job = context.db.jobs.update(job.id, spec=record, budget_bytes=spec.budget_bytes)
    make_folder(context.settings.jobs_dir).chmod(0o700)  # conversations are private to this user
    _write(folder, curated, spec)
    return job


def _inherited(profile: str, parent: int | None, spec: JobSpec, context: CycleContext) -> list[str]:
    """Return the ids of what the adapter that the job goes on from has learned: the candidate will know it too."""
    return [] if spec.start is None or parent is None else list(context.store.get(profile, parent).example_ids)


def write_dry_run(profile: str, folder: Path, context: CycleContext) -> None:
    """Write into `folder` the job directory that a job of the profile would have now; change nothing else.

    Raises NothingToLearn, ModelLoading.
    """
    curated = curate_by_settings(context.db.feedback.examples(profile), context.settings)
    _, parent = _incumbent(profile, context)
    _write(folder, curated, _spec("dry-run", profile, parent, context))


def _write(folder: Path, curated: Curated, spec: JobSpec) -> None:
    make_folder(folder)
    write_examples(folder / TRAIN_FILE, curated.train)
    write_examples(folder / HELDOUT_FILE, curated.heldout)
    spec.write(folder)


def curate_by_settings(examples: Sequence[Example], settings: Settings) -> Curated:
    """Return the curated `examples`. Raises NothingToLearn."""
    return curate(examples, settings.curation, settings.training.seed)


def require_news(profile: str, context: CycleContext) -> str:
    """Return the reason for a scheduled job: changes of feedback or settings since the last judged job.

    Raises NothingToLearn where there is too little feedback, or too little has changed.
    """
    examples = context.db.feedback.examples(profile)
    curate_by_settings(examples, context.settings)
    last = _last_judged(profile, context)
    if last is None or last.spec is None:
        return f"{len(examples)} examples, none of which has been trained on"
    if last.status == "rejected" and last.spec.get("start"):
        return f"job {last.id}, which went on from the adapter in use, was rejected; this one learns everything anew"
    if last.spec.get("fingerprint") == _fingerprint(examples, context):
        raise NothingToLearn(f"no feedback has come since job {last.id}, which was {last.status}")
    seen, ids = set(last.spec.get("seen", ())), {example.source_id for example in examples}
    if gone := seen - ids:
        return f"{len(gone)} of the examples of job {last.id} have been deleted"
    least, new = context.settings.schedule.min_new_feedback, ids - seen
    if 0 < len(new) < least:
        raise NothingToLearn(
            f"{len(new)} examples are new since job {last.id}, a scheduled job needs {least} "
            "(schedule.min_new_feedback)"
        )
    return f"{len(new)} new examples since job {last.id}" if new else f"other settings than those of job {last.id}"


def _incumbent(profile: str, context: CycleContext) -> tuple[int | None, int | None]:
    """Return the active version and the candidate's parent.

    None is the base model, which takes the place of a version for another base model as the parent.
    """
    active = context.store.active(profile)
    if active is not None:
        try:
            context.store.verify(profile, active, context.base_model().sha256)
        except AdapterIncompatible:
            return active, None
    return active, active


def _last_judged(profile: str, context: CycleContext) -> JobRecord | None:
    judged = (job for job in context.db.jobs.list(profile) if job.status in ("succeeded", "rejected"))
    return next(judged, None)


def _start(profile: str, parent: int | None, context: CycleContext) -> str | None:
    """Return the folder of the adapter that a job goes on from, the incumbent's; None to learn everything anew."""
    settings, last = context.settings, _last_judged(profile, context)
    if parent is None or not settings.training.warm_start:
        return None
    if last is not None and last.status == "rejected" and (last.spec or {}).get("start"):
        return None
    made_by = context.store.get(profile, parent).config
    is_alike = json.loads(to_json(settings.lars)) == made_by
    return str(context.store.folder(profile, parent)) if is_alike else None


def _spec(
    job_id: str, profile: str, parent: int | None, context: CycleContext, asked: Mapping[str, Any] | None = None
) -> JobSpec:
    """Return what the worker is to do; `asked` are settings of training for this job alone."""
    settings, model = context.settings, context.base_model()
    start, training = _start(profile, parent, context), replace(settings.training.config, **(asked or {}))
    if start is not None and parent is not None:  # other examples are read again each night, in other wordings
        training = replace(training, seed=(training.seed + parent) % 2**63)
    return JobSpec(
        job_id=job_id,
        profile=profile,
        model_path=str(model.folder),
        model_sha256=model.sha256,
        dtype=settings.model.dtype,
        base_model=model.reference,
        base_model_revision=model.revision,
        lars=settings.lars,
        training=training,
        parent=None if parent is None else str(context.store.folder(profile, parent)),
        start=start,
        budget_bytes=settings.worker_bytes,
        threads=settings.training.worker_threads,
        seed=settings.training.seed,
        costs_file=str(settings.costs_file),
    )


def _fingerprint(examples: Sequence[Example], context: CycleContext) -> str:
    """Return a digest of feedback, settings and base model; equal digests train the same adapter."""
    settings = context.settings.model_dump(mode="json", include={"lars", "curation", "gate", "model"})
    settings["training"] = to_dict(context.settings.training.config)
    content = [[example.as_dict() for example in examples], settings, context.base_model().sha256]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
