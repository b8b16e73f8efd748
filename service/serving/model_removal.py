"""Remove a base model from this device, unless something needs it."""

from __future__ import annotations

from collections.abc import Iterable

from lars_agent.errors import LarsError, ModelNotFound
from lars_agent.models.library import InstalledModel, ModelLibrary
from lars_agent.models.sources import DEFAULT
from service.db.records import JobRecord


class ModelInUse(LarsError):
    """The model cannot be removed: it replies, will at the next start, or a job needs it."""


def chosen_model(library: ModelLibrary, setting: str) -> InstalledModel | None:
    """Return the installed model that the setting `model.name`, or `lars-agent model use`, names; None if none is."""
    try:
        chosen = library.current() if setting == DEFAULT else None
        return chosen or library.get(setting)
    except ModelNotFound:
        return None


def remove_model(
    library: ModelLibrary, name: str, setting: str, running: InstalledModel | None, unfinished: Iterable[JobRecord]
) -> int:
    """Remove an installed model and return the bytes freed.

    `setting` is the `model.name` of the next start, `running` the model that replies now, `unfinished` are the jobs.
    Raises ModelInUse, ModelNotFound.
    """
    model, chosen = library.get(name), chosen_model(library, setting)
    if running is not None and running.name == model.name:
        raise ModelInUse(f"{model.name} is in use: it replies until the daemon is started with another one")
    if chosen is not None and chosen.name == model.name:
        raise ModelInUse(f"{model.name} is in use; choose another one first (lars-agent model use NAME, or model.name)")
    for job in unfinished:
        if (job.spec or {}).get("model_sha256") == model.sha256:
            raise ModelInUse(f"job {job.id} needs {model.name}; cancel it, or wait for its end")
    return library.remove(model.name)
