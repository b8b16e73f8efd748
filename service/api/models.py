"""Base models on this device, and fetching others."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from lars_agent.errors import ModelNotFound, ModelUnsupported
from lars_agent.models.library import ModelLibrary
from service.api.dependencies import DaemonDep
from service.api.errors import FieldConflict, FieldNotFound, documented
from service.api.fields import Body, Id, Reply, Text
from service.serving.model_pull import preview
from service.serving.model_removal import remove_model

router = APIRouter(prefix="/models", tags=["models"])


class ModelBody(Reply):
    """A base model on this device."""

    name: str
    reference: str = Field(description="What it was fetched as.")
    bytes: int = Field(description="Size on disk, about that of its weights in memory.")
    installed: str
    in_use: bool


class PullBody(Reply):
    """A model that is being fetched, or was fetched last."""

    reference: str
    message: str = Field(description="What is being done, and how far it is.")
    done_bytes: int | None = Field(description="Bytes that have come; null while nothing is being fetched.")
    total_bytes: int | None = Field(description="Bytes of all that is fetched; null while nothing is.")
    error: str | None
    is_over: bool


class ModelList(Reply):
    """The base models on this device, by name, and the last pull."""

    models: list[ModelBody]
    pull: PullBody | None = Field(description="Null if none was asked for since the daemon's start.")


class RemovedBody(Reply):
    """A model that was removed."""

    name: str
    freed_bytes: int


class PreviewBody(Reply):
    """What a base model would need here, predicted from its configuration before anything of it is fetched."""

    reference: str
    name: str
    download_bytes: int
    disk_bytes: int
    serving_bytes: int = Field(description="Memory of the process that replies.")
    training_bytes: int = Field(description="Peak memory of training, on the fastest plan.")
    least_training_bytes: int = Field(description="The least `memory.budget_bytes` that allows training.")
    fits: bool = Field(description="Whether the budget of now allows training.")


class PullRequest(Body):
    """The model to fetch."""

    reference: Text = Field(
        min_length=1, max_length=400, description="`default`, a hub id (`org/name@revision`), a folder, a `.gguf` file."
    )


@router.get("", responses=documented(503))
def list_models(daemon: DaemonDep) -> ModelList:
    """List the installed base models, and tell how far a pull is. `PATCH /settings` with `model.name` chooses one."""
    used = daemon.model_host.installed
    models = [
        {**vars(one), "in_use": used is not None and one.name == used.name}
        for one in ModelLibrary(daemon.settings.models_dir).list()
    ]
    return ModelList.model_validate({"models": models, "pull": daemon.model_pull.last})


@router.get("/preview", responses=documented(404, 409, 503))
def preview_model(query: Annotated[PullRequest, Query()], daemon: DaemonDep) -> PreviewBody:
    """Predict what a model needs, from its configuration and the sizes of its files; takes seconds."""
    settings = daemon.settings
    try:
        found = preview(query.reference, settings.model.dtype, settings.memory.budget_bytes)
    except ModelNotFound as error:
        raise FieldNotFound("reference", str(error)) from error
    except ModelUnsupported as error:
        raise FieldConflict("reference", str(error)) from error
    return PreviewBody.model_validate(found)


@router.post("", status_code=202, responses=documented(404, 409))
def pull(body: PullRequest, daemon: DaemonDep) -> PullBody:
    """Fetch a base model while the daemon goes on; `GET /models` tells how far it is."""
    try:
        return PullBody.model_validate(daemon.model_pull.start(body.reference))
    except ModelNotFound as error:
        raise FieldNotFound("reference", str(error)) from error


@router.delete("/{name}", responses=documented(404, 409, 503))
def remove(name: Id, daemon: DaemonDep) -> RemovedBody:
    """Remove an installed base model; not the one in use, now or at the next start, nor one that a job needs."""
    library, setting = ModelLibrary(daemon.settings.models_dir), daemon.source.load().model.name
    try:
        freed = remove_model(library, name, setting, daemon.model_host.installed, daemon.db.jobs.unfinished())
    except ModelNotFound as error:
        raise FieldNotFound("name", str(error)) from error
    return RemovedBody(name=name, freed_bytes=freed)
