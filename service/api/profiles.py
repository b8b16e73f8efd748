"""Profiles: the persons or purposes that exist, and deletion of all that one of them has said."""

from __future__ import annotations

import secrets
from datetime import datetime

from fastapi import APIRouter, HTTPException
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import documented
from service.api.fields import Body, Deleted, Id, Profile, Reply, Tag, VersionLabel, version_label

router = APIRouter(prefix="/profiles", tags=["profiles"])

TOKEN_BYTES = 24
NO_TOKEN = (
    "server.token is not set, so that whoever has no token is the owner, and a token for a profile would keep nobody "
    "from anything; set server.token first"
)


class ProfileBody(Reply):
    """A profile, with the numbers of what is its own, and the version in use."""

    name: str
    feedback: int
    interactions: int
    versions: int
    serving: VersionLabel


class TokenRequest(Body):
    """A new token."""

    label: Tag | None = Field(default=None, description="What or whom it is for, to tell it from others.")


class TokenBody(Reply):
    """A token that stands for one profile alone."""

    id: str
    created: datetime
    profile: str
    label: str


class NewTokenBody(TokenBody):
    """A new token, and the only time that it is told."""

    token: str


class TokenList(Reply):
    """The tokens of a profile, oldest first."""

    tokens: list[TokenBody]


class ProfileList(Reply):
    """All profiles, by name."""

    profiles: list[ProfileBody]


@router.get("")
def list_profiles(daemon: DaemonDep) -> ProfileList:
    """List the profiles that have feedback, interactions, jobs or adapter versions, and `default`."""
    db, store = daemon.db, daemon.store
    names = {*daemon.profiles.names(), *db.interactions.profiles(), *db.jobs.profiles()}
    served = daemon.model_host.serving()
    found = [
        ProfileBody(
            name=name,
            feedback=db.feedback.count(profile=name),
            interactions=db.interactions.count(profile=name),
            versions=len(store.versions(name)),
            serving=version_label(served.get(name)),
        )
        for name in sorted(names)
    ]
    return ProfileList(profiles=found)


@router.delete("/{profile}", responses=documented(503, 507))
def delete(profile: Profile, daemon: DaemonDep) -> Deleted:
    """Delete all feedback and all interactions of a profile, and every adapter version that learned from them."""
    return deleted(daemon, daemon.db.erasures.profile(profile))


@router.get("/{profile}/tokens")
def list_tokens(profile: Profile, daemon: DaemonDep) -> TokenList:
    """List the tokens that stand for a profile alone; what they are is kept nowhere."""
    return TokenList.model_validate({"tokens": daemon.db.profile_tokens.list(profile)})


@router.post("/{profile}/tokens", status_code=201, responses=documented(409, 503, 507))
def add_token(profile: Profile, daemon: DaemonDep, body: TokenRequest | None = None) -> NewTokenBody:
    """Make a token with which a person sees and uses this profile alone; the profile need not exist yet."""
    server = daemon.settings.server
    if server.token is None and not server.external_urls:
        raise HTTPException(409, NO_TOKEN)
    token = f"lars-{secrets.token_urlsafe(TOKEN_BYTES)}"
    label = (body and body.label) or ""
    record = daemon.db.profile_tokens.add(profile, label, token)
    return NewTokenBody(**vars(record), token=token)


@router.delete("/{profile}/tokens/{token_id}", responses=documented(404, 503, 507))
def revoke_token(profile: Profile, token_id: Id, daemon: DaemonDep) -> TokenBody:
    """Revoke a token: it, and the browsers that were let in by it, are refused from then on."""
    return TokenBody.model_validate(daemon.db.profile_tokens.revoke(profile, token_id))
