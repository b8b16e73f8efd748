"""What hangs on a piece of feedback: who learned it, what goes with it when deleted, other words for its question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from lars_agent.english.wordings import other_wordings
from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import MOST_IDS, Body, Id, Reply, VersionLabel
from service.daemon import Daemon

router = APIRouter(prefix="/feedback", tags=["feedback"])


class LearnedIn(Reply):
    """Adapter versions that learned a piece of feedback."""

    profile: str
    versions: list[VersionLabel]


class Wordings(Reply):
    """Other questions to the answer that a piece of feedback gives, the least like its own first."""

    wordings: list[str] = Field(description="Empty where none is known: English ones are, of short questions.")


class EffectsQuery(Body):
    """The feedback that might be deleted."""

    id: list[Id] = Field(min_length=1, max_length=MOST_IDS)


class ProfileEffects(Reply):
    """Consequences of a deletion for one profile."""

    profile: str
    versions: list[VersionLabel] = Field(description="Adapter versions that learned any of it, and would be deleted.")
    serving: VersionLabel = Field(description="The version that would reply then.")


class Effects(ProfileEffects):
    """Consequences of deleting a piece of feedback."""

    interactions: int = Field(description="Number of interactions that would go with it.")


class EffectsOfMany(Reply):
    """Consequences of deleting several pieces of feedback at once."""

    feedback: int = Field(description="Number of them that exist.")
    interactions: int = Field(description="Number of interactions that would go with them.")
    profiles: list[ProfileEffects]


@router.get("/effects")
def effects_of_many(query: Annotated[EffectsQuery, Query()], daemon: DaemonDep) -> EffectsOfMany:
    """Return the consequences of deleting several pieces of feedback at once; unknown ids have none."""
    erasures = daemon.db.erasures
    effects = [_effects(daemon, profile, own) for profile, own in sorted(erasures.affected(query.id).items())]
    counts = {"feedback": len(daemon.db.feedback.some(query.id)), "interactions": erasures.going_with(query.id)}
    return EffectsOfMany.model_validate({**counts, "profiles": effects})


@router.get("/{feedback_id}/effects", responses=documented(404))
def effects(feedback_id: Id, daemon: DaemonDep) -> Effects:
    """Return the consequences of deleting one piece of feedback."""
    profile = daemon.db.feedback.get(feedback_id).profile
    ids, count = daemon.db.erasures.affected([feedback_id])[profile], daemon.db.erasures.going_with([feedback_id])
    return Effects.model_validate({**_effects(daemon, profile, ids), "interactions": count})


@router.get("/{feedback_id}/versions", responses=documented(404))
def versions(feedback_id: Id, daemon: DaemonDep) -> LearnedIn:
    """Return the adapter versions that learned from one piece of feedback, oldest first."""
    profile = daemon.db.feedback.get(feedback_id).profile
    return LearnedIn.model_validate({"profile": profile, "versions": _learned_in(daemon, profile, [feedback_id])})


@router.get("/{feedback_id}/wordings", responses=documented(404))
def wordings(feedback_id: Id, daemon: DaemonDep) -> Wordings:
    """Return other words for the question of one piece of feedback, to ask whether it was understood."""
    last = daemon.db.feedback.get(feedback_id).messages[-1]
    return Wordings(wordings=other_wordings(last["content"]) if last["role"] == "user" else [])


def _learned_in(daemon: Daemon, profile: str, ids: Sequence[str]) -> list[int]:
    """Return the profile's versions that learned any of the feedback, oldest first."""
    return [found.version for found in daemon.store.versions(profile) if not set(ids).isdisjoint(found.example_ids)]


def _effects(daemon: Daemon, profile: str, ids: Sequence[str]) -> dict[str, Any]:
    """Return the consequences of deleting this feedback of the profile: versions that go, and the one left."""
    learned = _learned_in(daemon, profile, ids)
    return {"profile": profile, "versions": learned, "serving": daemon.switch.without(profile, learned)}
