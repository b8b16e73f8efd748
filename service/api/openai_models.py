"""OpenAI's list of models: here the base model, each profile, and each version of its adapter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from lars_agent.errors import AdapterNotFound
from lars_agent.store.manifest import AdapterManifest
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import version_label
from service.api.schemas import Reply
from service.daemon import Daemon
from service.db import DEFAULT_PROFILE

router = APIRouter(prefix="/v1/models", tags=["openai"])

BASE = "base"


class ModelCard(Reply):
    """What a request's `model` may name."""

    id: str = Field(examples=["default", "alice@v12", "base"])
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.")
    owned_by: str = "lars-agent"
    root: str = Field(description="What serves it now: a version of an adapter, or the base model.")
    parent: str | None = Field(description="What it was trained from; null for the base model.")


class ModelList(Reply):
    """All of them: the base model, the profiles, their versions."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("", responses=documented(503))
def list_models(daemon: DaemonDep) -> ModelList:
    """What a request's `model` may name."""
    return ModelList(data=list(cards(daemon)))


@router.get("/{name:path}", responses=documented(404, 503))
def get_model(name: str, daemon: DaemonDep) -> ModelCard:
    """One of them."""
    found = next((card for card in cards(daemon) if card.id == name), None)
    if found is None:
        raise AdapterNotFound(f"there is no model {name!a:.100}; GET /v1/models lists those there are")
    return found


def cards(daemon: Daemon) -> Iterator[ModelCard]:
    """The base model, then each profile with its versions, the newest first."""
    installed = daemon.serving.require_model()
    began = _seconds(installed.installed)
    yield ModelCard(id=BASE, created=began, root=installed.reference, parent=None)
    for profile in sorted({DEFAULT_PROFILE, *daemon.store.profiles()}):
        versions, active = daemon.store.versions(profile), daemon.store.active(profile)
        now = next((manifest for manifest in versions if manifest.version == active), None)
        yield ModelCard(
            id=profile,
            created=began if now is None else _seconds(now.created),
            root=_name(profile, active),
            parent=None if now is None else _name(profile, now.parent),
        )
        yield from (_card(manifest) for manifest in reversed(versions))


def _card(manifest: AdapterManifest) -> ModelCard:
    name = _name(manifest.profile, manifest.version)
    return ModelCard(
        id=name, created=_seconds(manifest.created), root=name, parent=_name(manifest.profile, manifest.parent)
    )


def _name(profile: str, version: int | None) -> str:
    return BASE if version is None else f"{profile}@{version_label(version)}"


def _seconds(when: str) -> int:
    """Since 1970, of an ISO 8601 time; 0 where it is none."""
    try:
        parsed = datetime.fromisoformat(when)
    except ValueError:
        return 0
    return int(parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp())
