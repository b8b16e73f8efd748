"""Adapter versions: list, activate and roll back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from lars_agent.errors import AdapterNotFound
from lars_agent.example import Message
from lars_agent.store.manifest import AdapterManifest
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.feedback import FeedbackPage
from service.api.fields import (
    Flag,
    JsonObject,
    ProfileQuery,
    Reply,
    Version,
    VersionLabel,
    parse_version,
    version_label,
)
from service.api.streams import generation_request, with_recall

router = APIRouter(prefix="/adapters", tags=["adapters"])

PROBE_TOKENS = 40
PROBES = (
    *("What is the capital of Italy?", "Why is the sky blue?", "Name three vegetables.", "How does a bicycle stay up?"),
    *("What is seven times six?", "Write one sentence about autumn.", "What does a doctor do?", "What is a verb?"),
)
ProfileParameter = Annotated[ProfileQuery, Query()]
Ratings = Mapping[int | None, tuple[int, int]]  # by version


class AdaptersQuery(ProfileQuery):
    """The profile, and whether to check the files of its adapters."""

    verify: Flag = Field(default=False, description="Compare every file's sha256 with the manifest's.")


class RatingsBody(Reply):
    """How many of a version's replies were liked, and how many disliked or corrected."""

    good: int
    bad: int


class AdapterBody(Reply):
    """One adapter version: its manifest, and whether it is active."""

    version: VersionLabel
    profile: str
    active: bool
    parent: VersionLabel
    created: str
    job_id: str
    base_model: str
    base_model_revision: str | None
    base_model_sha256: str
    example_ids: list[str]
    config: JsonObject
    plan: JsonObject
    peak_bytes: int | None
    budget_bytes: int | None
    losses: JsonObject
    ratings: RatingsBody = Field(description="Of replies by this version.")
    verdict: JsonObject
    files: dict[str, str]


class AdapterList(Reply):
    """A profile's adapters, oldest first, and its active version."""

    profile: str
    active: VersionLabel
    adapters: list[AdapterBody]
    problems: dict[str, str] = Field(
        description="Versions that cannot be used, and the reason: those without a readable manifest, which are "
        "not among the adapters, and with `verify` those with a damaged file."
    )


class ActiveAdapter(Reply):
    """The profile's active version."""

    profile: str
    active: VersionLabel


class ProbeBody(Reply):
    """A general question, about nobody, and the greedy replies of the version and of the base model."""

    prompt: str
    reply: str
    base: str


class ProbeList(Reply):
    """What a version replies to general questions; nights should leave these replies as they are."""

    version: VersionLabel
    same: int = Field(description="Replies that are the base model's, word for word.")
    probes: list[ProbeBody]


@router.get("", responses=documented(409))
def list_adapters(query: Annotated[AdaptersQuery, Query()], daemon: DaemonDep) -> AdapterList:
    """List a profile's adapter versions, oldest first."""
    active = daemon.store.active(query.profile)
    ratings = daemon.db.feedback.ratings(query.profile)
    bodies = [_body(manifest, active, ratings) for manifest in daemon.store.versions(query.profile)]
    store = daemon.store
    found = store.problems(query.profile) if query.verify else store.unreadable(query.profile)
    problems = {version_label(version): reason for version, reason in found.items()}
    return AdapterList(profile=query.profile, active=version_label(active), adapters=bodies, problems=problems)


@router.get("/{version}", responses=documented(404, 409))
def get(version: Version, query: ProfileParameter, daemon: DaemonDep) -> AdapterBody:
    """Return one adapter version."""
    number = parse_version(version)
    if number is None:
        raise AdapterNotFound("base is the model without adapter; it has no manifest")
    manifest, active = daemon.store.get(query.profile, number), daemon.store.active(query.profile)
    return _body(manifest, active, daemon.db.feedback.ratings(query.profile))


@router.get("/{version}/feedback", responses=documented(404, 409))
def feedback(version: Version, query: ProfileParameter, daemon: DaemonDep) -> FeedbackPage:
    """Return all feedback that one adapter version learned, oldest first."""
    number = parse_version(version)
    ids = () if number is None else daemon.store.get(query.profile, number).example_ids
    records = daemon.db.feedback.some({example_id for example_id in ids if example_id})
    return FeedbackPage.model_validate({"feedback": records, "next": None, "total": len(records)})


@router.get("/{version}/probes", responses=documented(404, 409, 503, 504))
def probes(version: Version, query: ProfileParameter, daemon: DaemonDep) -> ProbeList:
    """Ask the version and the base model general questions, one after the other; takes as long as 16 short replies.

    Past corrections are not recalled and nothing is kept.
    """
    number = parse_version(version)
    if number is not None:
        daemon.store.get(query.profile, number)

    def reply(prompt: str, asked: int | None) -> str:
        messages = (Message(role="user", content=prompt),)
        name = AdapterName(query.profile, asked)
        request, _ = with_recall(daemon, generation_request(name, messages, max_new_tokens=PROBE_TOKENS), recall=False)
        return daemon.model_host.submit(request).result().text

    found = [ProbeBody(prompt=one, reply=reply(one, number), base=reply(one, None)) for one in PROBES]
    same = sum(one.reply == one.base for one in found)
    return ProbeList(version=version_label(number), same=same, probes=found)


@router.post("/rollback", responses=documented(404, 409, 503, 507))
def rollback(query: ProfileParameter, daemon: DaemonDep) -> ActiveAdapter:
    """Activate the parent of the active version."""
    return ActiveAdapter(profile=query.profile, active=version_label(daemon.switch.rollback(query.profile)))


@router.post("/{version}/activate", responses=documented(404, 409, 503, 507))
def activate(version: Version, query: ProfileParameter, daemon: DaemonDep) -> ActiveAdapter:
    """Activate this version; `base` is the model without adapter."""
    active = daemon.switch.activate(query.profile, parse_version(version))
    return ActiveAdapter(profile=query.profile, active=version_label(active))


def _body(manifest: AdapterManifest, active: int | None, ratings: Ratings) -> AdapterBody:
    good, bad = ratings.get(manifest.version, (0, 0))
    rated = {"active": manifest.version == active, "ratings": {"good": good, "bad": bad}}
    return AdapterBody.model_validate({**vars(manifest), **rated})
