"""Adapter versions: which there are, and which one replies."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from lars_agent.errors import AdapterNotFound
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import parse_version, version_label
from service.api.queries import AdaptersQuery, ProfileQuery
from service.api.schemas import ActiveAdapter, AdapterBody, AdapterList

router = APIRouter(prefix="/adapters", tags=["adapters"])

ProfileParameter = Annotated[ProfileQuery, Query()]


@router.get("", responses=documented(409))
def list_adapters(query: Annotated[AdaptersQuery, Query()], daemon: DaemonDep) -> AdapterList:
    """A profile's adapter versions, oldest first."""
    active = daemon.store.active(query.profile)
    bodies = [AdapterBody.of(manifest, active) for manifest in daemon.store.versions(query.profile)]
    found = daemon.store.problems(query.profile) if query.verify else {}
    problems = {version_label(version): words for version, words in found.items()}
    return AdapterList(profile=query.profile, active=version_label(active), adapters=bodies, problems=problems)


@router.get("/{version}", responses=documented(404, 409))
def get(version: str, query: ProfileParameter, daemon: DaemonDep) -> AdapterBody:
    """One adapter version."""
    number = parse_version(version)
    if number is None:
        raise AdapterNotFound("base is the model without adapter; it has no manifest")
    return AdapterBody.of(daemon.store.get(query.profile, number), daemon.store.active(query.profile))


@router.post("/rollback", responses=documented(404, 409, 503, 507))
def rollback(query: ProfileParameter, daemon: DaemonDep) -> ActiveAdapter:
    """The parent of the active version replies from now on."""
    return ActiveAdapter(profile=query.profile, active=version_label(daemon.switch.rollback(query.profile)))


@router.post("/{version}/activate", responses=documented(404, 409, 503, 507))
def activate(version: str, query: ProfileParameter, daemon: DaemonDep) -> ActiveAdapter:
    """This version replies from now on; `base` is the model without adapter."""
    active = daemon.switch.activate(query.profile, parse_version(version))
    return ActiveAdapter(profile=query.profile, active=version_label(active))
