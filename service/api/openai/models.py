"""OpenAI's list of models: the base model, each profile, and each version of its adapter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from lars_agent.store.manifest import AdapterManifest
from lars_agent.store.names import BASE, AdapterName
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Reply
from service.api.model_names import model_names
from service.daemon import Daemon

CAPABILITIES = ["completion", "tools"]  # a chat template without tools gets them in the system prompt

router = APIRouter(prefix="/v1/models", tags=["openai"])


class ModelCard(Reply):
    """A name that a request's `model` may have."""

    id: str = Field(examples=["default", "alice@v12", "base"])
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.")
    owned_by: str = "lars-agent"
    root: str = Field(description="The adapter version, or the base model, that replies.")
    parent: str | None = Field(description="The version it was trained from; null for the base model.")
    capabilities: list[str] = Field(default=CAPABILITIES, description="As Ollama's `/api/show` has them.")


class ModelList(Reply):
    """The base model, the profiles, their versions, and the aliases."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("", responses=documented(503))
def list_models(daemon: DaemonDep) -> ModelList:
    """List the names that a request's `model` may have."""
    return ModelList(data=cards(daemon))


@router.get("/{name:path}", responses=documented(404, 503))
def get_model(name: str, daemon: DaemonDep) -> ModelCard:
    """Return one model."""
    return find_card(daemon, name)


def find_card(daemon: Daemon, name: str | None) -> ModelCard:
    """Return the card of the model `name`. Raises AdapterNotFound, and AdapterCorrupt for an unreadable manifest."""
    adapter = model_names(daemon).resolve(name)
    listed = {card.id: card for card in cards(daemon)}
    if found := listed.get(name or "") or listed.get(adapter.label):
        return found
    assert isinstance(adapter.version, int), "every profile has a card"
    return _version_card(daemon.store.get(adapter.profile, adapter.version))


def cards(daemon: Daemon) -> list[ModelCard]:
    """Return the base model, each profile with its versions, the newest first, and the aliases."""
    installed, names = daemon.model_host.require_model(), model_names(daemon)
    began = _seconds(installed.installed)
    found = [ModelCard(id=BASE, created=began, root=installed.reference, parent=None)]
    for profile in names.profiles.names():
        found += _profile_cards(daemon, profile, began)
    listed = {card.id: card for card in found}
    aliases = names.working_aliases().items()
    copies = [listed[to.label].model_copy(update={"id": alias}) for alias, to in aliases if to.label in listed]
    return found + copies


def _profile_cards(daemon: Daemon, profile: str, began: int) -> list[ModelCard]:
    """Return the profile's card and those of its versions; `began` dates a profile that uses the base model."""
    versions, active = daemon.store.versions(profile), daemon.store.active(profile)
    now = next((manifest for manifest in versions if manifest.version == active), None)
    card = ModelCard(
        id=profile,
        created=began if now is None else _seconds(now.created),
        root=AdapterName(profile, active).label,
        parent=None if now is None else AdapterName(profile, now.parent).label,
    )
    return [card, *map(_version_card, reversed(versions))]


def _version_card(manifest: AdapterManifest) -> ModelCard:
    name = AdapterName(manifest.profile, manifest.version).label
    parent = AdapterName(manifest.profile, manifest.parent).label
    return ModelCard(id=name, created=_seconds(manifest.created), root=name, parent=parent)


def _seconds(when: str) -> int:
    """Return the seconds since 1970 of an ISO 8601 time; 0 for an invalid one."""
    try:
        parsed = datetime.fromisoformat(when)
    except ValueError:
        return 0
    return int(parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp())
