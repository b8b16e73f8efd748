"""The job directory as the daemon writes it: what there is to learn, from which adapter, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lars_agent.errors import AdapterIncompatible, NothingToLearn
from lars_agent.example import Example
from lars_agent.files import make_folder
from lars_agent.records import to_dict
from lars_agent.training.curate import Curated, curate
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from service.cycle.context import CycleContext
from service.cycle.unlearning import lasting
from service.db import JobRecord
from service.settings.load import Settings

SUPERVISED = {"threads", "hang_s"}  # training settings that are no part of what is learned


def snapshot(job: JobRecord, examples: Sequence[Example], curated: Curated, parts: CycleContext) -> None:
    """The job directory holds all that the worker needs; job.json comes last and says that the rest is there."""
    active, parent = _incumbent(job.profile, parts)
    folder, spec = parts.folder(job.id), _spec(job.id, job.profile, parent, parts)
    record = to_dict(spec) | {
        "active_version": active,
        "parent_version": parent,
        "fingerprint": _fingerprint(examples, parts),
        "seen": sorted({example.source_id for example in examples}),
        "train": len(curated.train),
        "heldout": len(curated.heldout),
        "dropped": [asdict(dropped) for dropped in curated.dropped],
    }
    parts.db.jobs.update(job.id, spec=record, budget_bytes=spec.budget_bytes)
    make_folder(parts.settings.jobs_dir).chmod(0o700)  # what people said is for no other user to read
    _write(folder, curated, spec)


def rehearse(profile: str, folder: Path, parts: CycleContext) -> None:
    """`folder` is the job directory that a job of the profile would have now; nothing else is changed.

    Raises NothingToLearn, ModelLoading.
    """
    curated = curated_by_settings(parts.db.feedback.examples(profile), parts.settings)
    _, parent = _incumbent(profile, parts)
    _write(folder, curated, _spec("dry-run", profile, parent, parts))


def _write(folder: Path, curated: Curated, spec: JobSpec) -> None:
    make_folder(folder)
    write_examples(folder / TRAIN_FILE, curated.train)
    write_examples(folder / HELDOUT_FILE, curated.heldout)
    spec.write(folder)


def curated_by_settings(examples: Sequence[Example], settings: Settings) -> Curated:
    """What the settings make of `examples`. Raises NothingToLearn."""
    return curate(examples, settings.curation, settings.training.seed)


def require_news(profile: str, parts: CycleContext) -> str:
    """Why a night is worth it: what there is to learn that the last judged job did not know, or still knew.

    Raises NothingToLearn where there is too little feedback, or too little has changed.
    """
    examples = parts.db.feedback.examples(profile)
    curated_by_settings(examples, parts.settings)
    judged = (job for job in parts.db.jobs.list(profile) if job.status in ("succeeded", "rejected"))
    last = next(judged, None)
    if last is None or last.spec is None:
        return f"{len(examples)} examples, none of which has been learned"
    if last.spec.get("fingerprint") == _fingerprint(examples, parts):
        raise NothingToLearn(f"no feedback has come since job {last.id}, which was {last.status}")
    seen, ids = set(last.spec.get("seen", ())), {example.source_id for example in examples}
    if gone := seen - ids:
        return f"{len(gone)} of the examples of job {last.id} have been deleted"
    least, new = parts.settings.schedule.min_new_feedback, ids - seen
    if 0 < len(new) < least:
        raise NothingToLearn(
            f"{len(new)} examples are new since job {last.id}, a night takes {least} (schedule.min_new_feedback)"
        )
    return f"{len(new)} new examples since job {last.id}" if new else f"other settings than those of job {last.id}"


def _incumbent(profile: str, parts: CycleContext) -> tuple[int | None, int | None]:
    """The version in use, and the one the candidate is judged against and goes back to: see `forgotten.lasting`.

    None is the base model, which takes the place of a version for another base model, too.
    """
    active, parent = parts.store.active(profile), lasting(profile, parts)
    if parent is not None:
        try:
            parts.store.verify(profile, parent, parts.base_model().sha256)
        except AdapterIncompatible:
            return active, None
    return active, parent


def _spec(job_id: str, profile: str, parent: int | None, parts: CycleContext) -> JobSpec:
    settings, model = parts.settings, parts.base_model()
    return JobSpec(
        job_id=job_id,
        profile=profile,
        model_path=str(model.folder),
        model_sha256=model.sha256,
        dtype=settings.model.dtype,
        base_model=model.reference,
        base_model_revision=model.revision,
        lars=settings.lars,
        training=settings.training.config,
        parent=None if parent is None else str(parts.store.folder(profile, parent)),
        budget_bytes=settings.worker_bytes,
        threads=settings.training.threads,
        seed=settings.training.seed,
        costs_file=str(settings.costs_file),
    )


def _fingerprint(examples: Sequence[Example], parts: CycleContext) -> str:
    """The same for the same feedback, learned in the same way on the same base model."""
    settings = parts.settings.model_dump(mode="json", include={"lars", "training", "curation", "gate", "model"})
    settings["training"] = {key: value for key, value in settings["training"].items() if key not in SUPERVISED}
    words = [[example.as_dict() for example in examples], settings, parts.base_model().sha256]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
