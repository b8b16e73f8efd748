"""Ollama's store of models: POST /api/pull, POST /api/copy, DELETE /api/delete.

A pull of a name that is here already succeeds at once, as clients pull before they chat. A download begins only where
`server.client_pulls` allows it, which no client can set. What cannot be undone with a button is refused in words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lars_agent.errors import AdapterNotFound, ModelLoading, ModelNotFound
from lars_agent.models.library import ModelLibrary
from lars_agent.models.sources import HUB_ID, resolve
from lars_agent.store.names import BASE
from service.api.caller import require_owner
from service.api.dependencies import DaemonDep
from service.api.errors import (
    EVERYWHERE,
    FieldConflict,
    FieldNotFound,
    InvalidField,
    OllamaErrorBody,
    answers,
    ascii_json,
)
from service.api.errors import documented as documented_errors
from service.api.fields import Body, Switch, Text
from service.api.model_names import model_names
from service.daemon import Daemon
from service.settings.server import LATEST

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

NDJSON = "application/x-ndjson"
LINES = answers("JSON lines, one for each step; with `stream: false` one object.", NDJSON)
HOSTS = ("hf.co/", "huggingface.co/")
POLL_S = 0.5
Name = Annotated[Text, Field(min_length=1, max_length=400)]
Step = dict[str, Any]


class NamedRequest(Body):
    """A model. Fields that are not named here have no effect."""

    model_config = ConfigDict(extra="ignore")

    model: Name | None = None
    name: Name | None = Field(default=None, description="As older clients call `model`.")

    @property
    def wanted(self) -> str:
        """The name without `:latest`. Raises InvalidField if there is none."""
        if found := self.model or self.name:
            return found.removesuffix(LATEST)
        raise InvalidField("model", "is missing")


class PullModel(NamedRequest):
    """The model to fetch: a name of `GET /api/tags`, or `hf.co/org/name`."""

    stream: Switch | None = None


class CopyModel(Body):
    """Names of models."""

    model_config = ConfigDict(extra="ignore")

    source: Name
    destination: Name


@router.post("/pull", response_model=None, responses=LINES | documented(404, 409, 503))
async def pull(body: PullModel, daemon: DaemonDep) -> Any:
    """Fetch a base model, if `server.client_pulls` allows it; a name that is here already is one that was fetched."""
    reference = await run_in_threadpool(_begin, daemon, body.wanted)
    steps = _steps(daemon, reference) if reference else _no_steps()
    if body.stream is not False:
        return StreamingResponse((ascii_json(step) + "\n" async for step in steps), media_type=NDJSON)
    last = [step async for step in steps][-1]
    if "error" in last:
        raise FieldConflict("model", str(last["error"]))
    return last


@router.post("/copy", responses=documented(404, 409, 503))
def copy(body: CopyModel, daemon: DaemonDep) -> None:
    """Say how a model gets another name: an alias, in the configuration file."""
    names = model_names(daemon)
    source, destination = names.resolve(body.source), body.destination.removesuffix(LATEST)
    with suppress(AdapterNotFound):
        if names.resolve(destination) == source:
            return
        raise FieldConflict("destination", f"{destination!a:.100} is the name of another model")
    raise FieldConflict(
        "destination",
        f"nothing is copied here; another name is an alias, in the configuration file: server.model_aliases = "
        f'{{"{destination}" = "{source.label}"}}',
    )


@router.delete("/delete", responses=documented(404, 409, 503))
def delete(body: NamedRequest, daemon: DaemonDep) -> None:
    """Delete an adapter version that is not in use and that none in use goes back to; refuse the rest in words."""
    names, name = model_names(daemon), body.wanted
    if name in names.working_aliases():
        raise FieldConflict("model", f"{name!a:.100} is an alias; take it out of server.model_aliases")
    try:
        adapter = names.resolve(name)
    except AdapterNotFound:
        with suppress(ModelNotFound):
            found = ModelLibrary(daemon.settings.models_dir).get(name.removeprefix(HOSTS[0]))
            raise FieldConflict(
                "model", f"{found.name} is a base model; on the device run: lars-agent model rm"
            ) from None
        raise
    if adapter.version is None:
        raise FieldConflict("model", f"{name!a:.100} is the base model, which is in use")
    if not isinstance(adapter.version, int):
        raise FieldConflict(
            "model",
            f"{adapter.profile} is a profile, with all that was told to it; it is deleted on the page Memory, or by "
            f"DELETE /profiles/{adapter.profile}",
        )
    if any(job.profile == adapter.profile for job in daemon.db.jobs.unfinished()):
        raise FieldConflict("model", f"{adapter.profile} is learning, and may need {adapter.label}; wait for the job")
    daemon.switch.remove(adapter.profile, adapter.version)


def _begin(daemon: Daemon, name: str) -> str | None:
    """Begin to fetch the model of that name, and return its reference; None if it is here.

    Raises FieldNotFound, HTTPException where it is not allowed, PullRunning.
    """
    with suppress(AdapterNotFound, ModelLoading):
        model_names(daemon).resolve(name)
        return None
    reference = next((name.removeprefix(host) for host in HOSTS if name.startswith(host)), name)
    with suppress(ModelNotFound):
        ModelLibrary(daemon.settings.models_dir).get(reference)
        return None
    if not _is_on_hub(reference):
        raise FieldNotFound(
            "model",
            f"{name!a:.100} is neither a name here (GET /api/tags) nor a model of the hub; name one of the hub as "
            "hf.co/org/name, without a tag",
        )
    require_owner(f"fetch models, and {reference} is not here")
    if not daemon.settings.server.client_pulls:
        raise HTTPException(
            403,
            f"{reference} is not here, and clients may not fetch models; on the device run: lars-agent model pull "
            f"{reference}, or fetch it on the page Settings, or set server.client_pulls = true in the configuration",
        )
    last = daemon.model_pull.last
    if last is None or last.is_over or last.reference != reference:
        daemon.model_pull.start(reference)
    return reference


def _is_on_hub(reference: str) -> bool:
    """Return whether this names a model of the hub, rather than a file or a folder of this device."""
    with suppress(ModelNotFound):
        return HUB_ID.fullmatch(reference) is not None and resolve(reference).reference == reference
    return False


async def _no_steps() -> AsyncIterator[Step]:
    yield {"status": "success"}


async def _steps(daemon: Daemon, reference: str) -> AsyncIterator[Step]:
    """Yield how far the pull is; the client may leave, and it goes on."""
    before = None
    while (now := daemon.model_pull.last) is not None and now.reference == reference and not now.is_over:
        if now != before:
            step: Step = {"status": f"pulling {reference}" if now.total_bytes else now.message}
            if now.total_bytes:  # Open WebUI shows a bar for what has a digest
                step |= {"digest": reference, "total": now.total_bytes, "completed": now.done_bytes}
            yield step
        before = now
        await asyncio.sleep(POLL_S)
    if now is None or now.reference != reference:
        yield {"error": "another model is being fetched now; GET /models tells which are here"}
    elif now.error:
        yield {"error": now.error}
    else:
        yield {"status": f"installed; {BASE} becomes this model by the setting model.name, from the next start on"}
        yield {"status": "success"}
