"""What a person has deleted is in no adapter: a version that learned it is deleted, whoever descends from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lars_agent.errors import JobCancelled
from service.cycle.context import CycleContext
from service.db.errors import JobNotFound


def withdraw_forgotten(profile: str, context: CycleContext, ids: Collection[str] = ()) -> list[int]:
    """Delete and return the profile's versions that learned the feedback `ids`; without ids, any that is deleted.

    A version whose manifest cannot be read is not served and stays: what it learned is unknown.
    """
    with context.switch.held():
        versions = [
            manifest.version
            for manifest in context.store.versions(profile)
            if not set(ids).isdisjoint(manifest.example_ids)
            or (not ids and _is_stale(manifest.job_id, manifest.example_ids, context))
        ]
        if versions or ids:  # replies that have the feedback in their prompt end, too
            context.switch.withdraw(profile, versions)
        return versions


def require_unforgotten(ids: Iterable[str], context: CycleContext) -> None:
    """Raise JobCancelled if any of the feedback that a candidate has learned is deleted."""
    if _deleted(ids, context):
        raise JobCancelled(
            "feedback that the candidate has learned has been deleted meanwhile; the next one goes without"
        )


def _is_stale(job_id: str, ids: Iterable[str], context: CycleContext) -> bool:
    """Return whether feedback that a version learned is known to be deleted.

    That of a version whose job this database does not know is not: after an older backup was restored, or the file was
    moved away, feedback is unknown without having been deleted.
    """
    try:
        context.db.jobs.get(job_id)
    except JobNotFound:
        return False
    return _deleted(ids, context)


def _deleted(ids: Iterable[str], context: CycleContext) -> bool:
    learned = {example_id for example_id in ids if example_id}
    return context.db.feedback.known(learned) != learned
