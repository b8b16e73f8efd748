"""One personalization cycle: feedback becomes a candidate, and the candidate, if it is better, the next reply.

Each step leaves what it found in the job's row and in the job directory, and none is done twice: the same call with
the same job goes on where a daemon that died stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lars_agent.errors import ErrorRecord, LarsError, WorkerFailed, deserialize_error
from lars_agent.records import to_dict
from lars_agent.store.manifest import AdapterManifest
from lars_agent.training.gate import Verdict, decide
from lars_agent.training.job_directory import CANDIDATE, SPEC_FILE, JobResult, JobSpec
from service.cycle.context import CycleContext
from service.cycle.job_directory import curated_by_settings, snapshot
from service.cycle.unlearning import withdraw, withdrawn_unless_learned_anew
from service.db import JobRecord
from service.serving.adapter_switch import SwapFailed, label


def run_cycle(job: JobRecord, parts: CycleContext, train: Callable[[Path], JobResult]) -> Verdict:
    """The candidate was accepted and serves the profile, or was rejected and stays in the job directory.

    `train` has the worker work on the job directory. Raises NothingToLearn, SwapFailed, what `train` raises, and
    whatever keeps a step from being done; the incumbent then still serves. One that learned what has been deleted since
    gives way all the same, where its successor is rejected or there is nothing to learn.
    """
    folder = parts.folder(job.id)
    with withdrawn_unless_learned_anew(job.profile, parts):
        if not (folder / SPEC_FILE).exists():
            examples = parts.db.feedback.examples(job.profile)
            snapshot(job, examples, curated_by_settings(examples, parts.settings), parts)
        result = train(folder)
        verdict = judge(job, result, parts)
    if verdict.accepted:
        manifest = publish(job, result, verdict, parts)
        put_in_use(job, manifest.version, parts)
    elif (words := withdraw(job.profile, parts)) is not None:
        verdict = replace(verdict, reasons=(*verdict.reasons, f"{words}."))
        parts.db.jobs.update(job.id, verdict=to_dict(verdict))
    return verdict


def judge(job: JobRecord, result: JobResult, parts: CycleContext) -> Verdict:
    """The gate's verdict on what the worker measured. Raises the worker's own error where it failed."""
    job = parts.db.jobs.update(
        job.id, result=to_dict(result) | {"learned": len(result.learned)}, peak_bytes=result.peak_bytes
    )
    if result.status == "failed" or result.candidate is None or result.incumbent is None:
        raise _worker_error(result)
    verdict = decide(result.candidate, result.incumbent, parts.settings.gate, result.base)
    if verdict.accepted and _published(job, parts) is None:
        verdict = _against_another(job, verdict, parts)
    parts.db.jobs.update(job.id, verdict=to_dict(verdict))
    for checkpoint in parts.folder(job.id).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return verdict


def publish(job: JobRecord, result: JobResult, verdict: Verdict, parts: CycleContext) -> AdapterManifest:
    """The candidate is the profile's next version, not yet in use; a job that is run again publishes none twice."""
    manifest = _published(job, parts)
    if manifest is None:
        candidate = parts.folder(job.id) / CANDIDATE
        manifest = parts.store.publish(job.profile, candidate, _manifest(job, result, verdict, parts))
    parts.db.jobs.update(job.id, version=manifest.version)
    return manifest


def put_in_use(job: JobRecord, version: int, parts: CycleContext) -> None:
    """Have `version` serve the profile, unless another one has been put in use since the job began. Raises SwapFailed.

    The incumbent then goes on serving, or where it is damaged what `AdapterSwitch` puts in its place.
    """
    incumbent = _noted(job, parts)["active_version"]
    try:
        parts.switch.activate(job.profile, version, unless_moved_from=incumbent)
    except SwapFailed:
        raise
    except Exception as error:
        raise SwapFailed(
            f"v{version} was accepted and published but could not be served ({error}); "
            f"{label(incumbent)} is in use as before"
        ) from error


def _manifest(job: JobRecord, result: JobResult, verdict: Verdict, parts: CycleContext) -> AdapterManifest:
    folder = parts.folder(job.id)
    spec = JobSpec.read(folder)
    return AdapterManifest(
        parent=_noted(job, parts)["parent_version"],
        job_id=job.id,
        base_model=spec.base_model,
        base_model_revision=spec.base_model_revision,
        base_model_sha256=spec.model_sha256,
        example_ids=result.learned,
        config=to_dict(spec.lars),
        plan={
            **to_dict(spec.training),
            **result.plan,
            "dtype": spec.dtype,
            "best_step": result.best_step,
            "steps_done": result.steps,
        },
        peak_bytes=result.peak_bytes,
        budget_bytes=spec.budget_bytes,
        losses=result.losses,
        verdict=to_dict(verdict),
    )


def _against_another(job: JobRecord, verdict: Verdict, parts: CycleContext) -> Verdict:
    """Rejected if somebody has put another version in use since: it was not judged against that one."""
    began_with, active = _noted(job, parts)["active_version"], parts.store.active(job.profile)
    if active == began_with:
        return verdict
    reason = f"When it began {label(began_with)} was in use, but {label(active)} has been put in use since."
    return replace(verdict, accepted=False, reasons=(reason,))


def _published(job: JobRecord, parts: CycleContext) -> AdapterManifest | None:
    return next((found for found in parts.store.versions(job.profile) if found.job_id == job.id), None)


def _noted(job: JobRecord, parts: CycleContext) -> dict[str, Any]:
    """What `snapshot` noted in the job's row."""
    return dict(parts.db.jobs.get(job.id).spec or {})


def _worker_error(result: JobResult) -> LarsError:
    """Return the error that the worker met, of its own type."""
    message = result.error or "the worker's result holds no scores"
    record: ErrorRecord = {"type": result.error_type or "", "message": message, "fields": dict(result.error_fields)}
    return deserialize_error(record, WorkerFailed)
