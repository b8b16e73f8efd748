"""Frozen records: the form in which rows leave the database."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lars_agent.example import FunctionCall, Message
from lars_agent.models.tool_calls import read_calls

JobStatus = Literal["queued", "running", "paused", "succeeded", "rejected", "failed", "cancelled"]
JobTrigger = Literal["manual", "schedule", "cli"]
JobChanges = dict[str, Any]  # fields of a JobRecord and their new values
Source = Literal["given", "stated"]  # as feedback, or in a conversation
RunOutcome = Literal["waiting", "missed", "skipped", "ran"]
UNFINISHED: tuple[JobStatus, ...] = ("queued", "running", "paused")
JUDGED: tuple[JobStatus, ...] = ("succeeded", "rejected")
LEARNED_WEIGHT = 1.0  # of a correction
APPROVED_WEIGHT = 0.5  # of a reply that was liked as it is


def new_id(prefix: str, now: datetime) -> str:
    """Return an id that cannot be guessed and sorts by time: `prefix`, milliseconds, 48 random bits."""
    return f"{prefix}-{int(now.timestamp() * 1000):011x}{secrets.token_hex(6)}"


def now_utc() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class InteractionRecord:
    """One prompt and its reply.

    The `response` ends with its calls of tools, as `with_calls` writes them. `adapter_version` None is the base model;
    `recalled` are ids of feedback; `conversation` is the client's id of it.
    """

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
    recalled: tuple[str, ...] | None = None
    conversation: str | None = None

    @property
    def tool_calls(self) -> list[FunctionCall]:
        """The calls of tools in the reply."""
        return [call["function"] for call in read_calls(self.response)[1]]


@dataclass(frozen=True)
class Conversation:
    """Interactions under one id that a client chose; the `title` is the first message of the first of them."""

    id: str
    profile: str
    title: str
    created: datetime
    updated: datetime
    interactions: int


@dataclass(frozen=True)
class InteractionHour:
    """The interactions of one hour (UTC): its name, the time of the last one, and their size."""

    name: str
    latest: datetime
    bytes: int


@dataclass(frozen=True)
class NewFeedback:
    """Feedback to store.

    Either `interaction_id` (prompt, reply and profile are taken from it) or `messages` and `response`; what was stated
    in an interaction has both. `rating` lies in [-1, 1]; `correction` is the reply that was wanted; `profile` None is
    the interaction's, or `default`. `key` names it where it comes from, so that the profile has it once.
    """

    interaction_id: str | None = None
    messages: tuple[Message, ...] | None = None
    response: str | None = None
    rating: float | None = None
    correction: str | None = None
    comment: str | None = None
    tags: tuple[str, ...] = ()
    profile: str | None = None
    source: Source = "given"
    key: str | None = None


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is: rows stored, and in all."""

    done: int
    total: int


@dataclass(frozen=True)
class FeedbackRecord:
    """Stored feedback, with its own copy of the prompt and the reply.

    What was `stated` in the interaction has the question that it answers as its prompt, and no reply; or the question
    before it and the reply that it corrects.
    """

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
    source: Source


@dataclass(frozen=True)
class JobRecord:
    """One personalization cycle.

    `error` says why it failed, was rejected or had nothing to learn; `version` is the adapter it published; `reason`
    says why it ran; `pauses` counts the pauses of its worker by reason: `{"heat": {"count": 2, "seconds": 61.5}}`.
    `fine_tuning` is what was asked of it in OpenAI's dialect; its `training` are settings of training for it alone.
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
    fine_tuning: Mapping[str, Any] | None = None

    @property
    def active_version(self) -> int | None:
        """The version that served the profile when the job directory was written; None for the base model."""
        return (self.spec or {}).get("active_version")

    @property
    def parent_version(self) -> int | None:
        """The incumbent: the version that the candidate is compared with; None for the base model."""
        return (self.spec or {}).get("parent_version")


@dataclass(frozen=True)
class FileRecord:
    """An uploaded file: its name, its size as it came, and the profile that has taken it up.

    Its text is feedback. Until a profile takes it up it is nobody's, is neither learned nor recalled, and `expires`;
    `uploader` is the profile whose token it came with, None for the owner's.
    """

    id: str
    created: datetime
    name: str
    bytes: int
    profile: str | None = None
    expires: datetime | None = None
    uploader: str | None = None


@dataclass(frozen=True)
class ProfileTokenRecord:
    """A token that stands for one profile alone; the token itself is kept nowhere."""

    id: str
    created: datetime
    profile: str
    label: str


@dataclass(frozen=True)
class SessionRecord:
    """A browser that was let in: `client` names it in short words, and the hashes are of its secret and the token.

    It is bound to `profile`, None for the owner's.
    """

    id: str
    created: datetime
    last_used: datetime
    secret_hash: str
    token_hash: str
    client: str
    profile: str | None = None


@dataclass(frozen=True)
class ErasureRecord:
    """One deletion on a person's behalf, and how far it has come.

    Attributes:
        profiles, feedback: whose feedback was deleted, and its ids.
        interactions: number of the replies that went with it.
        versions: by profile the adapter versions that had learned it, and are deleted.
        stages: when each was done, ISO 8601; one that is not done is missing.
    """

    id: str
    created: datetime
    profiles: tuple[str, ...]
    feedback: tuple[str, ...]
    interactions: int
    versions: Mapping[str, Sequence[int]]
    stages: Mapping[str, str]


@dataclass(frozen=True)
class ScheduledRun:
    """The outcome of one scheduled moment of a profile, and the reason for it.

    `waiting`: the device is not idle yet. `missed`: its window has passed; it is made up once the device is idle, if
    the settings say so. `skipped`: there was nothing to learn. `ran`: as job `job_id`.
    """

    profile: str
    scheduled: datetime
    decided: datetime
    outcome: RunOutcome
    reason: str
    job_id: str | None = None


@dataclass(frozen=True)
class JobSummary:
    """The summary of a job: `at` is the time of its end, or of its creation; `bytes` is the size of its record."""

    id: str
    profile: str
    status: JobStatus
    at: datetime
    version: int | None
    bytes: int

    @property
    def is_over(self) -> bool:
        """True if the job has ended."""
        return self.status not in UNFINISHED
