"""Replace adapters that were trained on feedback deleted since; no candidate is compared with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog

from lars_agent.errors import AdapterError, NothingToLearn
from service.cycle.context import CycleContext
from service.db.errors import JobNotFound
from service.serving.adapter_switch import label

log = structlog.get_logger(__name__)


def effective_version(profile: str, context: CycleContext) -> int | None:
    """Return the active version, or if it was trained on deleted feedback its latest sound ancestor that was not.

    None is the base model. A version whose manifest cannot be read stays: its training feedback is unknown.
    """
    active = context.store.active(profile)
    with contextlib.suppress(AdapterError):
        if active is not None and not _is_unaffected(profile, active, context):
            ancestors = context.store.sound_ancestors(profile, context.base_model().sha256)
            return next((version for version in ancestors if _is_unaffected(profile, version, context)), None)
    return active


def withdraw_stale_adapter(profile: str, context: CycleContext) -> str | None:
    """Replace an adapter trained on deleted feedback; return a message if it was replaced.

    Raises the errors of `AdapterSwitch.activate`.
    """
    with context.switch.held():
        active, version = context.store.active(profile), effective_version(profile, context)
        if active == version:
            return None
        context.switch.activate(profile, version)
    message = f"{label(active)} was trained on feedback that has been deleted, so {label(version)} is in use instead"
    log.info("adapter_withdrawn", profile=profile, message=message)
    return message


@contextlib.contextmanager
def withdraw_if_nothing_to_learn(profile: str, context: CycleContext) -> Iterator[None]:
    """If the block raises NothingToLearn, no successor comes: withdraw a stale adapter and add that to the message."""
    try:
        yield
    except NothingToLearn as error:
        if (message := withdraw_stale_adapter(profile, context)) is None:
            raise
        raise NothingToLearn(f"{str(error).rstrip('.')}. {message}.") from error


def _is_unaffected(profile: str, version: int, context: CycleContext) -> bool:
    """Return True unless feedback that the version was trained on is known to be deleted.

    A version whose job this database does not know is unaffected: after an older backup was restored, or the file was
    moved away, feedback is unknown without having been deleted.
    """
    manifest = context.store.get(profile, version)
    try:
        context.db.jobs.get(manifest.job_id)
    except JobNotFound:
        return True
    learned = {example_id for example_id in manifest.example_ids if example_id}
    return context.db.feedback.known(learned) == learned
