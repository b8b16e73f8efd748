"""What people say about replies: stored, listed, exported, imported, forgotten."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import DaemonDep
from service.api.errors import InvalidField, documented
from service.api.fields import Id
from service.api.queries import DeleteQuery, ExportQuery, FeedbackQuery, ImportQuery, NoQuery
from service.api.schemas import Deleted, FeedbackBody, FeedbackPage, FeedbackRequest, Imported
from service.api.trl import from_lines, to_lines

router = APIRouter(prefix="/feedback", tags=["feedback"])

JSON_LINES = "application/jsonl"
LINES_SCHEMA: dict[str, Any] = {"schema": {"type": "string"}, "example": '{"prompt": "Hi", "completion": "Hello!"}\n'}
LINES_BODY = {"requestBody": {"required": True, "content": {JSON_LINES: LINES_SCHEMA}}}
LINES_REPLY: dict[int | str, dict[str, Any]] = {
    200: {"description": "One JSON object a line.", "content": {JSON_LINES: LINES_SCHEMA}}
}
STORED_BEFORE: dict[int | str, dict[str, Any]] = {
    200: {"model": FeedbackBody, "description": "The same request was answered before, by this feedback."}
}


@router.post("", status_code=201, responses=STORED_BEFORE | documented(404, 409, 503, 507))
def add(
    body: FeedbackRequest,
    response: Response,
    daemon: DaemonDep,
    query: Annotated[NoQuery, Query()],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> FeedbackBody:
    """The feedback, which is on the disk. With an Idempotency-Key a retry stores nothing twice."""
    record, created = daemon.db.feedback.add(body.to_new(), idempotency_key=idempotency_key)
    response.status_code = 201 if created else 200
    return FeedbackBody.of(record)


@router.get("")
def list_feedback(query: Annotated[FeedbackQuery, Query()], daemon: DaemonDep) -> FeedbackPage:
    """The latest feedback, newest first."""
    records = daemon.db.feedback.list(query.profile, query.limit, query.before, tag=query.tag, after=query.after)
    following = records[-1].id if len(records) == query.limit else None
    return FeedbackPage(feedback=[FeedbackBody.of(record) for record in records], next=following)


@router.delete("", responses=documented(503, 507))
def delete_matching(query: Annotated[DeleteQuery, Query()], daemon: DaemonDep) -> Deleted:
    """Everything that matches all the filters is gone; at least one filter must be given."""
    filters = query.model_dump(exclude_none=True)
    if not filters:
        raise InvalidField("profile", "is missing; give profile, before or tag, for this deletes all that match")
    deleted = daemon.db.feedback.delete_where(**filters)
    daemon.housekeeper.forget_soon()
    return Deleted(deleted=deleted)


@router.get("/export", response_class=StreamingResponse, responses=LINES_REPLY)
def export(query: Annotated[ExportQuery, Query()], daemon: DaemonDep) -> StreamingResponse:
    """The feedback as JSON lines for TRL, oldest first."""
    lines = to_lines(daemon.db.feedback.each(query.profile, query.tag), query.format)
    return StreamingResponse(lines, media_type=JSON_LINES)


@router.post("/import", status_code=201, openapi_extra=LINES_BODY, responses=documented(503, 507))
async def import_lines(request: Request, query: Annotated[ImportQuery, Query()], daemon: DaemonDep) -> Imported:
    """Every line is stored, or none."""
    body = await request.body()
    tags = () if query.tag is None else (query.tag,)

    def store() -> int:
        return len(daemon.db.feedback.add_many(from_lines(body.split(b"\n"), query.profile, tags)))

    return Imported(imported=await run_in_threadpool(store))


@router.get("/{feedback_id}", responses=documented(404))
def get(feedback_id: Id, daemon: DaemonDep) -> FeedbackBody:
    """One feedback."""
    return FeedbackBody.of(daemon.db.feedback.get(feedback_id))


@router.delete("/{feedback_id}", responses=documented(404, 503, 507))
def delete(feedback_id: Id, daemon: DaemonDep) -> Deleted:
    """The feedback is gone."""
    daemon.db.feedback.delete(feedback_id)
    daemon.housekeeper.forget_soon()
    return Deleted(deleted=1)
