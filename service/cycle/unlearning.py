"""Adapters that learned feedback which has been deleted since: none is judged by them, and at night they give way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from lars_agent.errors import AdapterError, NothingToLearn
from service.cycle.context import CycleContext
from service.db import JobNotFound
from service.serving.adapter_switch import label

log = structlog.get_logger(__name__)


def lasting(profile: str, parts: CycleContext) -> int | None:
    """The version in use if it learned nothing that is deleted; else the latest of its ancestors that did not and can
    serve, or None, the base model. One whose manifest cannot be read stays: nobody can tell what it learned.
    """
    active = parts.store.active(profile)
    with contextlib.suppress(AdapterError):
        if active is not None and not _is_innocent(profile, active, parts):
            ancestors = parts.store.sound_ancestors(profile, parts.base_model().sha256)
            return next((version for version in ancestors if _is_innocent(profile, version, parts)), None)
    return active


def withdraw(profile: str, parts: CycleContext) -> str | None:
    """What is `lasting` serves the profile; in words, if something else did. Raises what serving it raises."""
    with parts.switch.held():
        active, version = parts.store.active(profile), lasting(profile, parts)
        if active == version:
            return None
        parts.switch.activate(profile, version)
    words = f"{label(active)} learned what has been deleted since, so {label(version)} is in use instead"
    log.info("adapter_withdrawn", profile=profile, words=words)
    return words


@contextlib.contextmanager
def withdrawn_unless_learned_anew(profile: str, parts: CycleContext) -> Iterator[None]:
    """Where the block raises NothingToLearn, no successor comes: `withdraw` is done, and the error says so."""
    try:
        yield
    except NothingToLearn as error:
        if (words := withdraw(profile, parts)) is None:
            raise
        raise NothingToLearn(f"{str(error).rstrip('.')}. {words}.") from error


def _is_innocent(profile: str, version: int, parts: CycleContext) -> bool:
    """Whether nothing is known to be deleted that the version learned.

    Only a version that this database has seen being made can be found guilty: after an older backup was restored, or
    the file moved away, much is unknown and nothing was deleted.
    """
    manifest = parts.store.get(profile, version)
    try:
        parts.db.jobs.get(manifest.job_id)
    except JobNotFound:
        return True
    learned = {example_id for example_id in manifest.example_ids if example_id}
    return parts.db.feedback.known(learned) == learned
