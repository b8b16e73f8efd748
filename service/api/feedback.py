"""Feedback on replies: add, list, delete, export and import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from tempfile import TemporaryFile
from typing import IO, Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from lars_agent.example import Message
from lars_agent.files import raise_disk_full
from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import FieldConflict, InvalidField, Responses, answers, documented
from service.api.fields import (
    MOST_IDS,
    Body,
    CountedPage,
    Deleted,
    Flag,
    Id,
    PageQuery,
    Profile,
    ProfileFilter,
    ProfileQuery,
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
from service.api.tools import ToolTurns, to_messages
from service.api.trl import ROWS, Format, from_lines, to_lines
from service.daemon import Daemon
from service.db.records import FeedbackRecord, NewFeedback, Source

router = APIRouter(prefix="/feedback", tags=["feedback"])

JSON_LINES, NDJSON = "application/jsonl", "application/x-ndjson"  # two names of one format
BATCH_BYTES = 2**16  # of lines that are stored together
MOST_REFUSED = 1000  # lines that a dry run tells
NOTHING_SAID = "is missing; give a rating, a correction, a comment or tags"
SOURCE = "`given` as feedback, or `stated` by the person in a conversation."
LINES_SCHEMA: dict[str, Any] = {"schema": {"type": "string"}, "example": '{"prompt": "Hi", "completion": "Hello!"}\n'}
ROWS_SCHEMA: dict[str, Any] = {"schema": ROWS, "example": LINES_SCHEMA["example"]}
LINES_BODY = {"requestBody": {"required": True, "content": {NDJSON: ROWS_SCHEMA, JSON_LINES: ROWS_SCHEMA}}}
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


class ImportQuery(ProfileQuery):
    """Profile and tag of the imported feedback."""

    tag: Tag | None = None
    dry_run: Flag = Field(default=False, description="Only tell what would be stored, and which lines are refused.")


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
    profile: Profile | None = Field(default=None, description='By default the interaction\'s profile, or "default".')

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


class RefusedLine(Reply):
    """A line that cannot be imported, and the reason."""

    line: int
    message: str


class Imported(Reply):
    """Number of stored rows; of a dry run what would be stored, and the lines that prevent it."""

    imported: int
    valid: int | None = Field(default=None, description="Of a dry run: number of lines that can be imported.")
    refused: list[RefusedLine] | None = Field(
        default=None, description="Of a dry run: the others; nothing is stored if there are any."
    )


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
    if not filters:
        raise InvalidField("profile", "is missing; give id, profile, before, tag, source or q")
    return deleted(daemon, daemon.db.erasures.matching(**filters))


@router.get("/export", response_class=StreamingResponse, responses=LINES_REPLY)
def export(query: Annotated[ExportQuery, Query()], daemon: DaemonDep) -> StreamingResponse:
    """Export feedback as JSON lines for TRL, oldest first."""
    lines = to_lines(daemon.db.feedback.each(query.profile, query.tag), query.format)
    return StreamingResponse(lines, media_type=JSON_LINES)


@router.post(
    "/import",
    status_code=201,
    response_model_exclude_none=True,
    openapi_extra=LINES_BODY,
    responses=documented(503, 507),
)
async def import_lines(request: Request, query: Annotated[ImportQuery, Query()], daemon: DaemonDep) -> Imported:
    """Import JSON lines in TRL's formats: all lines are stored, or none. `GET /info` tells how far it is."""
    folder = daemon.settings.data_dir
    with raise_disk_full(folder), TemporaryFile(dir=folder) as file:  # without a name: nothing is left of it
        async for chunk in request.stream():
            file.write(chunk)
        file.flush()
        async with nullcontext() if query.dry_run else daemon.importing:  # here nobody waits in a thread
            return await run_in_threadpool(_import, file, query, daemon)


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


def _import(file: IO[bytes], query: ImportQuery, daemon: Daemon) -> Imported:
    """Check every line, and store them where all are right."""
    valid, refused = 0, dict[int, InvalidField]()
    for news, errors in _parsed(file, query):
        if errors and not query.dry_run:
            raise next(iter(errors.values()))
        valid += len(news)
        refused |= errors
        if len(refused) > MOST_REFUSED:
            break
    if not valid and not refused:
        raise InvalidField("body", "contains no line; send one JSON object per line")
    if not query.dry_run:
        return Imported(imported=daemon.db.imports.store((news for news, _ in _parsed(file, query)), valid))
    lines = [RefusedLine(line=number, message=str(error)) for number, error in refused.items()]
    if len(lines) > MOST_REFUSED:
        message = f"{MOST_REFUSED:,} lines before it are refused; it and those behind it are not told"
        lines[MOST_REFUSED:] = [RefusedLine(line=lines[MOST_REFUSED].line, message=message)]
    return Imported(imported=0, valid=valid, refused=lines)


def _parsed(file: IO[bytes], query: ImportQuery) -> Iterator[tuple[list[NewFeedback], dict[int, InvalidField]]]:
    """Yield the feedback in the lines of the file, and the errors, some lines at a time."""
    tags = () if query.tag is None else (query.tag,)
    file.seek(0)
    first = 1
    while lines := file.readlines(BATCH_BYTES):
        yield from_lines(lines, query.profile, tags, first)
        first += len(lines)


def _says_nothing(given: FeedbackRequest | FeedbackRecord) -> bool:
    return given.rating is None and given.correction is None and not given.comment and not given.tags
