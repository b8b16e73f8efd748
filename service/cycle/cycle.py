"""Run one personalization cycle: train a candidate on the feedback, judge it, publish it and put it in use.

Each step records its result in the job's row and in the job directory and is done once: the same call with the same job
continues where a daemon that died stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lars_agent.errors import ErrorRecord, LarsError, WorkerFailed, deserialize_error
from lars_agent.records import to_dict
from lars_agent.store.manifest import AdapterManifest
from lars_agent.training.gate import Verdict, decide
from lars_agent.training.job_directory import CANDIDATE, SPEC_FILE, JobResult, JobSpec
from service.cycle.context import CycleContext
from service.cycle.erasure import require_unforgotten, withdraw_forgotten
from service.cycle.job_directory import curate_by_settings, write_job_directory
from service.db.records import JobRecord
from service.serving.adapter_switch import SwapFailed, label


def run_cycle(job: JobRecord, context: CycleContext, train: Callable[[Path], JobResult]) -> Verdict:
    """Return the verdict: an accepted candidate now serves the profile, a rejected one stays in the job directory.

    `train` runs the worker on the job directory. Raises NothingToLearn, SwapFailed, JobCancelled where feedback that
    the candidate has learned was deleted, and the errors of `train` and of each step; the incumbent then goes on
    serving.
    """
    folder = context.folder(job.id)
    withdraw_forgotten(job.profile, context)
    if not (folder / SPEC_FILE).exists():
        examples = context.db.feedback.examples(job.profile)
        job = write_job_directory(job, examples, curate_by_settings(examples, context.settings), context)
    result = train(folder)
    verdict = judge(job, result, context)
    if verdict.accepted:
        manifest = publish(job, result, verdict, context)
        activate(job, manifest.version, context)
    return verdict


def judge(job: JobRecord, result: JobResult, context: CycleContext) -> Verdict:
    """Return the gate's verdict on the worker's result. Raises the worker's own error if it failed."""
    content = to_dict(result) | {"learned": len(result.learned)}
    context.db.jobs.update(job.id, result=content, peak_bytes=result.peak_bytes)
    if result.status == "failed" or result.candidate is None or result.incumbent is None:
        raise _worker_error(result)
    verdict = decide(result.candidate, result.incumbent, context.settings.gate, result.base)
    if verdict.accepted and _published(job, context) is None:
        verdict = _reject_if_moved(job, verdict, context)
    context.db.jobs.update(job.id, verdict=to_dict(verdict))
    for checkpoint in context.folder(job.id).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return verdict


def publish(job: JobRecord, result: JobResult, verdict: Verdict, context: CycleContext) -> AdapterManifest:
    """Publish the candidate as the profile's next version, once for each job, without putting it in use.

    Raises JobCancelled where feedback that it has learned is deleted: an erasure waits, or has been here before.
    """
    with context.switch.held():
        manifest = _published(job, context)
        if manifest is None:
            draft = _manifest(job, result, verdict, context)
            require_unforgotten({*draft.example_ids, *(job.spec or {}).get("seen", ())}, context)
            manifest = context.store.publish(job.profile, context.folder(job.id) / CANDIDATE, draft)
    context.db.jobs.update(job.id, version=manifest.version)
    return manifest


def activate(job: JobRecord, version: int, context: CycleContext) -> None:
    """Have `version` serve the profile, unless another one has been put in use since the job began. Raises SwapFailed.

    The incumbent then goes on serving, or where it is damaged, its replacement by the rule of `AdapterSwitch`.
    """
    incumbent = job.active_version
    try:
        context.switch.activate(job.profile, version, unless_moved_from=incumbent)
    except SwapFailed:
        raise
    except Exception as error:
        raise SwapFailed(
            f"v{version} was accepted and published but could not be served ({error}); "
            f"{label(incumbent)} is in use as before"
        ) from error


def _manifest(job: JobRecord, result: JobResult, verdict: Verdict, context: CycleContext) -> AdapterManifest:
    spec, learned = JobSpec.read(context.folder(job.id)), [*result.learned, *(job.spec or {}).get("inherited", ())]
    return AdapterManifest(
        parent=job.parent_version,
        created=context.db.now().isoformat(timespec="seconds"),
        job_id=job.id,
        base_model=spec.base_model,
        base_model_revision=spec.base_model_revision,
        base_model_sha256=spec.model_sha256,
        example_ids=tuple(dict.fromkeys(learned)),
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


def _reject_if_moved(job: JobRecord, verdict: Verdict, context: CycleContext) -> Verdict:
    """Reject the candidate if another version has become active since the job began: it was not judged against that."""
    incumbent, active = job.active_version, context.store.active(job.profile)
    if active == incumbent:
        return verdict
    reason = f"When the job began {label(incumbent)} was in use, but {label(active)} has been put in use since."
    return replace(verdict, accepted=False, reasons=(reason,))


def _published(job: JobRecord, context: CycleContext) -> AdapterManifest | None:
    return next((found for found in context.store.versions(job.profile) if found.job_id == job.id), None)


def _worker_error(result: JobResult) -> LarsError:
    """Return the error that the worker met, of its own type."""
    message = result.error or "the worker's result holds no scores"
    record: ErrorRecord = {"type": result.error_type or "", "message": message, "fields": dict(result.error_fields)}
    return deserialize_error(record, WorkerFailed)
