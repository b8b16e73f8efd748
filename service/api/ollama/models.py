"""Ollama's list of models, and the version."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter

from service.api.dependencies import DaemonDep
from service.api.errors import EVERYWHERE, OllamaErrorBody
from service.api.errors import documented as documented_errors
from service.api.fields import Body, Switch
from service.api.model_names import ModelName
from service.api.openai.models import CAPABILITIES, ModelCard, cards, find_card
from service.daemon import Daemon
from service.process.version import package_version

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

FOREVER = "2318-01-01T00:00:00Z"  # as Ollama writes it


class ShowRequest(Body):
    """The model to describe."""

    model: ModelName = None
    name: ModelName = None
    verbose: Switch | None = None


@router.get("/tags", response_model=None, responses=documented(503))
def tags(daemon: DaemonDep) -> dict[str, Any]:
    """List the names that a request's `model` may have."""
    return {"models": [_entry(daemon, card) for card in cards(daemon)]}


@router.get("/ps", response_model=None, responses=documented(503))
def running(daemon: DaemonDep) -> dict[str, Any]:
    """List the loaded models: every profile, or nothing while the model is unloaded."""
    loaded = [] if daemon.model_host.is_asleep else [card for card in cards(daemon) if "@" not in card.id]
    unloads_at = daemon.model_host.unloads_at
    until = {"expires_at": FOREVER if math.isinf(unloads_at) else iso(unloads_at), "size_vram": 0}
    return {"models": [_entry(daemon, card) | until for card in loaded]}


@router.post("/show", response_model=None, responses=documented(404, 503))
def show(body: ShowRequest, daemon: DaemonDep) -> dict[str, Any]:
    """Describe one model."""
    card = find_card(daemon, body.model or body.name)
    entry = _entry(daemon, card)
    return {
        "modelfile": f"FROM {card.parent or card.root}\n",
        "parameters": "",
        "template": "",
        "details": entry["details"],
        "model_info": {"general.architecture": entry["details"]["family"], "general.basename": card.root},
        "capabilities": CAPABILITIES,
        "modified_at": entry["modified_at"],
    }


@router.get("/version", response_model=None)
def version() -> dict[str, str]:
    """Return the version of lars-agent."""
    return {"version": package_version()}


def _entry(daemon: Daemon, card: ModelCard) -> dict[str, Any]:
    installed = daemon.model_host.require_model()
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": iso(card.created),
        "size": installed.bytes,
        "digest": installed.sha256,
        "details": {
            "parent_model": card.parent or "",
            "format": "safetensors",
            "family": installed.name,
            "families": [installed.name],
            "parameter_size": "",
            "quantization_level": daemon.settings.model.dtype,
        },
    }


def iso(seconds: float) -> str:
    """Return a time in seconds since 1970 as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
