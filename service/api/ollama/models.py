"""Ollama's list of models, and the version."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter

from lars_agent.models.facts import ModelFacts, facts_of
from lars_agent.store.names import BASE
from service.api.dependencies import DaemonDep
from service.api.errors import EVERYWHERE, OllamaErrorBody
from service.api.errors import documented as documented_errors
from service.api.fields import Switch
from service.api.model_names import ModelName
from service.api.ollama.digests import adapter_files, digest_of
from service.api.ollama.request import OllamaBody
from service.api.openai.models import CAPABILITIES, ModelCard, cards, find_card
from service.daemon import Daemon
from service.process.version import package_version

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

OLLAMA_VERSION = "0.12.11"  # whose API this is: clients refuse to speak to an earlier one than they know
GGUF_NAMES = {
    "context": "context_length",
    "hidden": "embedding_length",
    "intermediate": "feed_forward_length",
    "layers": "block_count",
    "heads": "attention.head_count",
    "key_heads": "attention.head_count_kv",
    "vocabulary": "vocab_size",
}
FOREVER = "2318-01-01T00:00:00Z"  # as Ollama writes it


class ShowRequest(OllamaBody):
    """The model to describe."""

    model: ModelName = None
    name: ModelName = None
    verbose: Switch | None = None


@router.head("/tags", response_model=None, responses=documented(503))
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
        "model_info": _model_info(card, _facts(daemon)),
        "capabilities": CAPABILITIES,
        "modified_at": entry["modified_at"],
    }


@router.head("/version", response_model=None)
@router.get("/version", response_model=None)
def version() -> dict[str, str]:
    """Return the version of Ollama whose API this is, as clients ask for it, and that of lars-agent."""
    return {"version": OLLAMA_VERSION, "lars_agent": package_version()}


def _facts(daemon: Daemon) -> ModelFacts:
    installed = daemon.model_host.require_model()
    return facts_of(installed.folder, installed.sha256)


def _entry(daemon: Daemon, card: ModelCard) -> dict[str, Any]:
    installed, facts, served = daemon.model_host.require_model(), _facts(daemon), adapter_files(daemon.store, card.root)
    family = facts.architecture or installed.name
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": iso(card.created),
        "size": installed.bytes + served.bytes,
        "digest": installed.sha256 if card.id == BASE else digest_of(card.id, card.root, installed.sha256, served),
        "details": {
            "parent_model": card.parent or "",
            "format": "safetensors",
            "family": family,
            "families": [family],
            "parameter_size": human_number(facts.parameters),
            "quantization_level": daemon.settings.model.dtype,
        },
    }


def _model_info(card: ModelCard, facts: ModelFacts) -> dict[str, Any]:
    """Return the model's properties under the names that GGUF files have for them, those that are known."""
    general = {
        "general.architecture": facts.architecture,
        "general.basename": card.root,
        "general.parameter_count": facts.parameters,
    }
    own = {f"{facts.architecture}.{name}": facts.sizes.get(size) for size, name in GGUF_NAMES.items()}
    return {name: value for name, value in {**general, **own}.items() if value}


def human_number(count: int) -> str:
    """Return a number of parameters as Ollama writes it: 134.52M, 8.0B; empty for none."""
    if count >= 10**9:
        return f"{count / 10**9:.1f}B"
    return f"{count / 10**6:.2f}M" if count else ""


def iso(seconds: float) -> str:
    """Return a time in seconds since 1970 as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
