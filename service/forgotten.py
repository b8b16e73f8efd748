"""Adapters that learned feedback which has been deleted since: none is judged by them, and at night they give way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice

import structlog

from lars_agent.errors import AdapterError, NothingToLearn
from service.db import JobNotFound
from service.parts import CycleParts, label

log = structlog.get_logger(__name__)


def lasting(profile: str, parts: CycleParts) -> int | None:
    """The version in use if it learned nothing that is deleted; else the latest of its ancestors that did not and can
    serve, or None, the base model. One whose manifest cannot be read stays: nobody can tell what it learned.
    """
    active = parts.store.active(profile)
    with contextlib.suppress(AdapterError):
        if active is not None and not _is_innocent(profile, active, parts):
            return _innocent_ancestor(profile, parts)
    return active


def withdraw(profile: str, parts: CycleParts) -> str | None:
    """What is `lasting` serves the profile; in words, if something else did. Raises what serving it raises."""
    with parts.pointer:
        active, version = parts.store.active(profile), lasting(profile, parts)
        if active == version:
            return None
        parts.serve(profile, version)
    words = f"{label(active)} learned what has been deleted since, so {label(version)} is in use instead"
    log.info("adapter_withdrawn", profile=profile, words=words)
    return words


@contextlib.contextmanager
def withdrawn_unless_learned_anew(profile: str, parts: CycleParts) -> Iterator[None]:
    """Where the block raises NothingToLearn, no successor comes: `withdraw` is done, and the error says so."""
    try:
        yield
    except NothingToLearn as error:
        if (words := withdraw(profile, parts)) is None:
            raise
        raise NothingToLearn(f"{str(error).rstrip('.')}. {words}.") from error


def _innocent_ancestor(profile: str, parts: CycleParts) -> int | None:
    """The latest that can serve; None where there is none before the line ends or is broken."""
    with contextlib.suppress(AdapterError):
        for version in islice(parts.store.iter_lineage(profile), 1, None):
            with contextlib.suppress(AdapterError):
                parts.store.verify(profile, version, parts.base_model().sha256)
                if _is_innocent(profile, version, parts):
                    return version
    return None


def _is_innocent(profile: str, version: int, parts: CycleParts) -> bool:
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
