"""What requests and replies look like, but for generation's parameters."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lars_agent.example import Message
from lars_agent.store.manifest import AdapterManifest
from service.alarms import Alarm
from service.api.errors import InvalidField
from service.api.fields import Body, Id, Messages, Profile, Rating, SpokenText, Tag, Text, to_messages, version_label
from service.db import (
    FeedbackRecord,
    InteractionRecord,
    NewFeedback,
)
from service.worker.memory_limit import LimitKind

VersionLabel = Annotated[str, Field(description='"v3", or "base" for the model without adapter.', examples=["v3"])]


def finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


JsonObject = Annotated[dict[str, Any], AfterValidator(finite)]


class Reply(BaseModel):
    """A body we send."""

    model_config = ConfigDict(from_attributes=True)


class GenerationDetails(Reply):
    """How a reply was made."""

    finish_reason: Literal["eos_token", "length", "stop_sequence"]
    prompt_tokens: int
    generated_tokens: int
    adapter_version: VersionLabel
    seed: int


class GenerateReply(Reply):
    """A reply, and the id by which feedback refers to it."""

    generated_text: str
    interaction_id: str | None = Field(description="Null where there was no room on the disk to record the reply.")
    details: GenerationDetails


class StreamToken(Reply):
    """A piece of the reply's text: one token or several."""

    text: str
    special: bool = False


class StreamEvent(Reply):
    """One event of a stream; the last one carries the whole text."""

    index: int
    token: StreamToken
    generated_text: str | None = None
    interaction_id: str | None = None
    details: GenerationDetails | None = None


class FeedbackRequest(Body):
    """What somebody says about a reply: of an `interaction_id`, or of a prompt and a response of any origin."""

    interaction_id: Id | None = Field(default=None, description="The reply it is about.")
    prompt: SpokenText | None = Field(default=None, description="One user message; or else `messages`.")
    messages: Messages | None = Field(default=None, description="A conversation that ends with the user's message.")
    response: Text | None = Field(default=None, description="The reply it is about, with `prompt` or `messages`.")
    rating: Rating | None = Field(default=None, description='"up", "down", or a number from -1 to 1.')
    correction: SpokenText | None = Field(default=None, description="What the reply should have been.")
    comment: Text | None = Field(default=None, description="For people; nothing learns from it.")
    tags: list[Tag] = Field(default=[], max_length=32)
    profile: Profile | None = Field(default=None, description='The interaction\'s, or "default", where none is given.')

    def to_new(self) -> NewFeedback:
        """What is to be stored. Raises InvalidField where the fields do not go together."""
        self._check_subject()
        if self.rating is None and self.correction is None and not self.comment and not self.tags:
            raise InvalidField("rating", "is missing; give a rating, a correction, a comment or tags")
        turns = self.messages
        said = (Message(role="user", content=self.prompt),) if self.prompt else turns and to_messages(turns)
        return NewFeedback(
            interaction_id=self.interaction_id,
            messages=said or None,
            response=self.response,
            rating=self.rating,
            correction=self.correction,
            comment=self.comment,
            tags=tuple(self.tags),
            profile=self.profile,
        )

    def _check_subject(self) -> None:
        given = [name for name in ("prompt", "messages", "response") if getattr(self, name) is not None]
        if self.interaction_id is not None:
            if given:
                raise InvalidField(given[0], "is known from the interaction; leave it out, or leave out interaction_id")
        elif not given:
            raise InvalidField("interaction_id", "is missing; give it, or a prompt (or messages) and a response")
        elif "prompt" in given and "messages" in given:
            raise InvalidField("messages", "cannot be given together with prompt")
        elif given == ["response"]:
            raise InvalidField("prompt", "is missing; a response needs a prompt or messages")
        elif "response" not in given:
            raise InvalidField("response", "is missing; say which reply this is about")


class TurnBody(Reply):
    """One message of a conversation."""

    role: str
    content: str


class FeedbackBody(Reply):
    """Stored feedback."""

    id: str
    created: datetime
    profile: str
    interaction_id: str | None
    messages: list[TurnBody]
    response: str
    adapter_version: VersionLabel = Field(description="Of the adapter that replied.")
    rating: float | None
    correction: str | None
    comment: str | None
    tags: list[str]

    @classmethod
    def of(cls, record: FeedbackRecord) -> Self:
        """The body of `record`."""
        return cls.model_validate({**vars(record), "adapter_version": version_label(record.adapter_version)})


class FeedbackPage(Reply):
    """Feedback, newest first."""

    feedback: list[FeedbackBody]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class InteractionBody(Reply):
    """A prompt and the reply it got."""

    id: str
    created: datetime
    profile: str
    messages: list[TurnBody]
    parameters: JsonObject
    response: str
    adapter_version: VersionLabel
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    seed: int | None

    @classmethod
    def of(cls, record: InteractionRecord) -> Self:
        """The body of `record`."""
        return cls.model_validate({**vars(record), "adapter_version": version_label(record.adapter_version)})


class InteractionPage(Reply):
    """Interactions, newest first."""

    interactions: list[InteractionBody]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class Deleted(Reply):
    """How many rows are gone."""

    deleted: int


class Imported(Reply):
    """How many rows were stored."""

    imported: int


class AdapterBody(Reply):
    """One adapter version, as its manifest tells."""

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
    verdict: JsonObject
    files: dict[str, str]

    @classmethod
    def of(cls, manifest: AdapterManifest, active: int | None) -> Self:
        """The body of `manifest`."""
        labels = {"version": version_label(manifest.version), "parent": version_label(manifest.parent)}
        return cls.model_validate({**vars(manifest), **labels, "active": manifest.version == active})


class AdapterList(Reply):
    """A profile's adapters, oldest first, and which one is in use."""

    profile: str
    active: VersionLabel
    adapters: list[AdapterBody]
    problems: dict[str, str] = Field(description="With `verify`: versions that cannot be used, and why.")


class ActiveAdapter(Reply):
    """The version that replies from now on."""

    profile: str
    active: VersionLabel


class Health(Reply):
    """The daemon replies; `degraded` where something is wrong all the same."""

    status: Literal["ok", "degraded"] = "ok"
    alarms: list[Alarm] | None = Field(default=None, description="What is wrong, where it is degraded.")


class Ready(Reply):
    """The daemon replies, and remembers it."""

    status: Literal["ok"] = "ok"


class ModelInfo(Reply):
    """The base model in use."""

    name: str
    reference: str
    revision: str | None
    sha256: str
    dtype: str


class MemoryInfo(Reply):
    """Memory of the daemon, and what training may use, bytes."""

    rss_bytes: int
    peak_bytes: int
    endpoint_bytes: int = Field(description="Resident in the process that generates; 0 while the model is unloaded.")
    budget_bytes: int
    limit: LimitKind = Field(
        description="What holds training to its budget: the kernel (`cgroup`), or the worker itself (`guard`)."
    )
    limit_reason: str | None = Field(description="Why the kernel does not, if so.")


class ScheduleInfo(Reply):
    """When it learns by itself."""

    enabled: bool
    cron: str
    next_run: datetime | None


class CheckInfo(Reply):
    """One thing that the device was asked, and what it says about the moment."""

    name: str
    state: Literal["fine", "against", "unknown"]
    words: str


class NightInfo(Reply):
    """Whether it adapts just now, and why or why not."""

    adapting: bool = Field(description="Whether a worker is training this moment.")
    words: str = Field(description="Why, or why not, in one line.")
    checks: list[CheckInfo] = Field(description="All that was looked at.")


class FeedbackCounts(Reply):
    """How much feedback there is."""

    total: int
    corrections: int
    liked: int
    disliked: int


class Info(Reply):
    """Where the daemon stands."""

    version: str
    uptime_s: float
    model: ModelInfo | None = Field(description="Null while none is loaded.")
    loading_error: str | None = Field(description="Why the model cannot be loaded, if so.")
    serving: dict[str, VersionLabel] = Field(description="The version that replies, by profile.")
    problems: list[str] = Field(description="What was wrong at the start, and what was done about it.")
    notices: list[str] = Field(description="What came of reading the settings again, where it did not all take effect.")
    feedback: FeedbackCounts
    interactions: int
    memory: MemoryInfo
    job: str | None = Field(description="The job that runs or is paused.")
    schedule: ScheduleInfo
    night: NightInfo
