"""Feedback on replies: add, list, delete, export and import."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field

from lars_agent.example import Message
from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import FieldConflict, InvalidField, Responses, answers, documented
from service.api.fields import (
    MOST_IDS,
    AnyProfile,
    Body,
    CountedPage,
    Deleted,
    Id,
    PageQuery,
    ProfileFilter,
    Rating,
    Reply,
    SpokenText,
    Tag,
    Text,
    TurnBody,
    VersionLabel,
    Words,
    moment,
    next_page,
)
from service.api.imports import JSON_LINES
from service.api.tools import ToolTurns, to_messages
from service.api.trl import Format, to_lines
from service.db.records import FeedbackRecord, NewFeedback, Source

router = APIRouter(prefix="/feedback", tags=["feedback"])

NOTHING_SAID = "is missing; give a rating, a correction, a comment or tags"
SOURCE = "`given` as feedback, or `stated` by the person in a conversation."
LINES_SCHEMA: dict[str, Any] = {"schema": {"type": "string"}, "example": '{"prompt": "Hi", "completion": "Hello!"}\n'}
LINES_REPLY = answers("One JSON object per line.", JSON_LINES, LINES_SCHEMA)


def _in_utc(given: datetime) -> datetime:
    try:
        return given.astimezone(UTC)
    except OverflowError:  # before the year 1, or after the year 9999
        return (datetime.min if given.year == 1 else datetime.max).replace(tzinfo=UTC)


class TagFilter(ProfileFilter):
    """Filter by profile and tag."""

    tag: Tag | None = None


class FeedbackFilter(TagFilter):
    """Filter of feedback; a row must match every filter given."""

    id: list[Id] | None = Field(default=None, max_length=MOST_IDS, description="One of these.")
    source: Source | None = Field(default=None, description=SOURCE)
    file: Id | None = Field(default=None, description="That it was uploaded in, see `POST /v1/files`.")
    q: Words | None = None
    before: Annotated[AwareDatetime, BeforeValidator(moment), AfterValidator(_in_utc)] | None = Field(
        default=None, description="Created before this time, given with its timezone."
    )


class FeedbackQuery(PageQuery, FeedbackFilter):
    """Filter and page of a list of feedback."""

    conversation: Id | None = Field(default=None, description="That the interaction belongs to.")


class ExportQuery(TagFilter):
    """Feedback to export, and one of TRL's formats."""

    format: Format = "messages"


SUBJECTS = (("interaction_id",), ("prompt", "response"), ("messages", "response"))  # one of them is given
STATEMENTS: tuple[dict[str, Any], ...] = (  # at least one is made
    {"required": ["rating"], "properties": {"rating": {"not": {"type": "null"}}}},
    {"required": ["correction"], "properties": {"correction": {"type": "string"}}},
    {"required": ["comment"], "properties": {"comment": {"type": "string", "minLength": 1}}},
    {"required": ["tags"], "properties": {"tags": {"minItems": 1}}},
)


def _add_rules(schema: dict[str, Any]) -> None:
    """Describe which fields go together."""
    names = {name for subject in SUBJECTS for name in subject}
    about = [
        {
            "required": list(given),
            "properties": {
                name: {"not": {"type": "null"}} if name in given else {"type": "null"} for name in sorted(names)
            },
        }
        for given in SUBJECTS
    ]
    schema["allOf"] = [{"anyOf": about}, {"anyOf": list(STATEMENTS)}]


class FeedbackRequest(Body):
    """Feedback on a recorded reply (`interaction_id`), or on a prompt and a response of any origin."""

    model_config = ConfigDict(json_schema_extra=_add_rules)

    interaction_id: Id | None = Field(default=None, description="The interaction of the reply.")
    prompt: SpokenText | None = Field(default=None, description="One user message, instead of `messages`.")
    messages: ToolTurns | None = Field(default=None, description="A conversation that ends with the user's message.")
    response: Text | None = Field(default=None, description="The reply, with `prompt` or `messages`.")
    rating: Rating | None = Field(default=None, description='"up", "down", or a number from -1 to 1.')
    correction: SpokenText | None = Field(default=None, description="What the reply should have been.")
    comment: Text | None = Field(
        default=None,
        description="A remark. On a disliked reply it counts as the correction, if it says what would have been right.",
    )
    tags: list[Tag] = Field(default=[], max_length=32)
    profile: AnyProfile = Field(
        default=None, validate_default=True, description='By default the interaction\'s profile, or "default".'
    )

    def to_new(self) -> NewFeedback:
        """Convert to the feedback to store. Raises InvalidField where the fields contradict each other."""
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
            raise InvalidField("response", "is missing; give the reply that this is about")
        if _says_nothing(self):
            raise InvalidField("rating", NOTHING_SAID)
        values = self.model_dump(exclude={"prompt", "messages", "tags"})
        messages = (Message(role="user", content=self.prompt),) if self.prompt else to_messages(self.messages or ())
        return NewFeedback(messages=messages or None, tags=tuple(self.tags), **values)


class FeedbackPatch(Body):
    """Changes of feedback; null takes a value away."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    rating: Rating | None = Field(default=None, description='"up", "down", or a number from -1 to 1.')
    correction: SpokenText | None = None
    comment: Text | None = None
    tags: list[Tag] = Field(default=[], max_length=32)


class FeedbackBody(Reply):
    """Stored feedback."""

    id: str
    created: datetime
    profile: str
    interaction_id: str | None
    messages: list[TurnBody]
    response: str
    adapter_version: VersionLabel = Field(description="Version that generated the reply.")
    rating: float | None
    correction: str | None
    comment: str | None
    tags: list[str]
    source: Source = Field(description=SOURCE)


class FeedbackPage(CountedPage):
    """Feedback, newest first."""

    feedback: list[FeedbackBody]


STORED_BEFORE: Responses = {
    200: {"model": FeedbackBody, "description": "The same request was stored before as this feedback."}
}


@router.post("", status_code=201, responses=STORED_BEFORE | documented(404, 409, 503, 507))
def add(
    body: FeedbackRequest,
    response: Response,
    daemon: DaemonDep,
    query: Annotated[Body, Query()],  # no parameter, so that a misspelt one is an error
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> FeedbackBody:
    """Store feedback durably before answering. A retry with the same Idempotency-Key stores nothing twice."""
    if idempotency_key is not None and daemon.profile is not None:
        idempotency_key = f"{idempotency_key}\n{daemon.profile}"  # which no header holds: keys of two people differ
    record, created = daemon.db.feedback.add(body.to_new(), idempotency_key=idempotency_key)
    if created:
        daemon.ratings.note(record)
    response.status_code = 201 if created else 200
    return FeedbackBody.model_validate(record)


@router.get("")
def list_feedback(query: Annotated[FeedbackQuery, Query()], daemon: DaemonDep) -> FeedbackPage:
    """List feedback, newest first."""
    records = daemon.db.feedback.list(**query.model_dump())
    total = daemon.db.feedback.count(**query.model_dump(exclude={"limit", "after"}))
    return FeedbackPage.model_validate({"feedback": records, "next": next_page(records, query.limit), "total": total})


@router.delete("", responses=documented(503, 507))
def delete_matching(query: Annotated[FeedbackFilter, Query()], daemon: DaemonDep) -> Deleted:
    """Delete the feedback that matches every filter; at least one filter is required: all that match are deleted."""
    filters = query.model_dump(exclude_none=True)
    if not query.model_dump(exclude_none=True, exclude_unset=True):
        raise InvalidField("profile", "is missing; give id, profile, before, tag, source, file or q")
    return deleted(daemon, daemon.db.erasures.matching(**filters))


@router.get("/export", response_class=StreamingResponse, responses=LINES_REPLY)
def export(query: Annotated[ExportQuery, Query()], daemon: DaemonDep) -> StreamingResponse:
    """Export feedback as JSON lines for TRL, oldest first."""
    lines = to_lines(daemon.db.feedback.each(query.profile, query.tag), query.format)
    return StreamingResponse(lines, media_type=JSON_LINES)


@router.get("/{feedback_id}", responses=documented(404))
def get(feedback_id: Id, daemon: DaemonDep) -> FeedbackBody:
    """Return one piece of feedback."""
    return FeedbackBody.model_validate(daemon.db.feedback.get(feedback_id))


@router.patch("/{feedback_id}", responses=documented(404, 409, 503, 507))
def edit(feedback_id: Id, body: FeedbackPatch, daemon: DaemonDep) -> FeedbackBody:
    """Change feedback. It counts at once; a version that learned the former one serves until the next is trained."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        raise InvalidField("rating", NOTHING_SAID)
    if _says_nothing(replace(daemon.db.feedback.get(feedback_id), **changes)):
        raise FieldConflict(next(iter(changes)), "cannot be taken away: nothing would be left; delete the feedback")
    record = daemon.db.feedback.edit(feedback_id, **changes)
    daemon.ratings.note(record)
    return FeedbackBody.model_validate(record)


@router.delete("/{feedback_id}", responses=documented(404, 503, 507))
def delete(feedback_id: Id, daemon: DaemonDep) -> Deleted:
    """Delete one piece of feedback, and with it the interactions that it is about, was recalled for or is quoted in.

    No version that learned it replies from then on; what it was learned into is deleted, too.
    """
    return deleted(daemon, daemon.db.erasures.feedback(feedback_id))


def _says_nothing(given: FeedbackRequest | FeedbackRecord) -> bool:
    return given.rating is None and given.correction is None and not given.comment and not given.tags
