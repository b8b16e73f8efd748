"""Profiles: the persons or purposes that exist, and deletion of all that one of them has said."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import documented
from service.api.fields import Deleted, Profile, Reply, VersionLabel, version_label

router = APIRouter(prefix="/profiles", tags=["profiles"])


class ProfileBody(Reply):
    """A profile, with the numbers of what is its own, and the version in use."""

    name: str
    feedback: int
    interactions: int
    versions: int
    serving: VersionLabel


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
