"""What leaves the database: frozen records, never rows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from lars_agent.example import Message

JobStatus = Literal["queued", "running", "paused", "succeeded", "rejected", "failed", "cancelled"]
JobTrigger = Literal["manual", "schedule", "cli"]
RunOutcome = Literal["waiting", "missed", "skipped", "ran"]
UNFINISHED: tuple[JobStatus, ...] = ("queued", "running", "paused")
LEARNED_WEIGHT = 1.0  # of a correction
APPROVED_WEIGHT = 0.5  # of a reply that was liked as it is


def new_id(prefix: str, now: datetime) -> str:
    """An id nobody can guess, which sorts by time: `prefix`, milliseconds, 48 random bits."""
    return f"{prefix}-{int(now.timestamp() * 1000):011x}{secrets.token_hex(6)}"


def now_utc() -> datetime:
    """This moment."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class InteractionRecord:
    """One prompt and the reply it got. `adapter_version` None is the base model."""

    id: str
    created: datetime
    profile: str
    messages: tuple[Message, ...]
    parameters: Mapping[str, Any]
    response: str
    adapter_version: int | None
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    seed: int | None


@dataclass(frozen=True)
class InteractionHour:
    """The interactions of one hour, UTC, together: which hour, when the last of them came, and what they take."""

    name: str
    latest: datetime
    bytes: int


@dataclass(frozen=True)
class NewFeedback:
    """What somebody says about a reply.

    Either `interaction_id` (prompt, reply and profile are then taken from it) or `messages` and `response`. `rating`
    lies in [-1, 1]; `correction` is what the reply should have been; `profile` None is the interaction's, or `default`.
    """

    interaction_id: str | None = None
    messages: tuple[Message, ...] | None = None
    response: str | None = None
    rating: float | None = None
    correction: str | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    profile: str | None = None


@dataclass(frozen=True)
class FeedbackRecord:
    """Stored feedback, with its own copy of the prompt and the reply."""

    id: str
    created: datetime
    profile: str
    interaction_id: str | None
    messages: tuple[Message, ...]
    response: str
    adapter_version: int | None
    rating: float | None
    correction: str | None
    comment: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True)
class JobRecord:
    """One personalization cycle: asked for, running or over.

    `error` says in words why it failed, was rejected or had nothing to learn; `version` is the adapter it published;
    `reason` says why it ran; `pauses` says who held its worker back: `{"heat": {"count": 2, "seconds": 61.5}}`.
    """

    id: str
    profile: str
    trigger: JobTrigger
    status: JobStatus
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    attempts: int = 0
    error: str | None = None
    spec: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    verdict: Mapping[str, Any] | None = None
    version: int | None = None
    budget_bytes: int | None = None
    peak_bytes: int | None = None
    reason: str | None = None
    pauses: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class ScheduledRun:
    """The outcome of one scheduled moment of a profile, and the reason for it.

    `waiting`: not yet a good moment. `missed`: its window has passed, and it is made up once there is a good moment, if
    it is to be made up at all. `skipped`: there was nothing to learn. `ran`: as job `job_id`.
    """

    profile: str
    scheduled: datetime
    decided: datetime
    outcome: RunOutcome
    reason: str
    job_id: str | None = None


@dataclass(frozen=True)
class JobSummary:
    """A job in few words: `at` is when it ended, or was asked for if it has not; `bytes` is what its record takes."""

    id: str
    profile: str
    status: JobStatus
    at: datetime
    version: int | None
    bytes: int

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self.status not in UNFINISHED


class JobChanges(TypedDict, total=False):
    """The fields of a job that `Jobs.update` may set."""

    status: JobStatus
    started: datetime | None
    finished: datetime | None
    attempts: int
    error: str | None
    spec: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None
    version: int | None
    budget_bytes: int | None
    peak_bytes: int | None
    reason: str | None
    pauses: Mapping[str, Mapping[str, Any]] | None
