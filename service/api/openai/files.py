"""OpenAI's files for fine-tuning: rows of feedback that are nobody's until a job takes them up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lars_agent.files import raise_disk_full
from lars_agent.store.names import DEFAULT_PROFILE
from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import InvalidField, answers, ascii_json, documented
from service.api.fields import MAX_PAGE_ROWS, Body, Id, Reply, storable
from service.api.import_rows import read_batches
from service.api.imports import JSON_LINES, count_rows
from service.daemon import Daemon
from service.db.records import FeedbackRecord, FileRecord, new_id

router = APIRouter(prefix="/v1/files", tags=["openai"])

PURPOSE = "fine-tune"
NAME_CHARS = 255
MOST_FIELDS, MOST_FIELD_BYTES = 8, 1000  # of the form, beside the file
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "Rows as POST /feedback/import takes them."},
        "purpose": {"const": PURPOSE},
        ANCHOR: {"const": "created_at"},
        SECONDS: {"type": "integer", "minimum": 1},
    },
    "required": ["file", "purpose"],
    "additionalProperties": False,
}
FIELDS = ("file", "purpose", ANCHOR, SECONDS)
FORM_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}


class FilesQuery(Body):
    """One page of the list of files."""

    after: Id | None = Field(default=None, description="Id of the last file of the page before.")
    limit: int = Field(default=MAX_PAGE_ROWS, ge=1, le=10_000, description="Maximum number of files.")
    order: Literal["asc", "desc"] = Field(default="desc", description="desc: newest first.")
    purpose: str | None = Field(default=None, max_length=100, description="All files are for `fine-tune`.")


class FileBody(Reply):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(description="Size of the upload.")
    created_at: int = Field(description="Seconds since 1970.")
    filename: str
    purpose: Literal["fine-tune"] = "fine-tune"
    status: Literal["processed"] = "processed"
    expires_at: int | None = Field(description="When it is deleted unless a job has learned from it.")


class FilePage(Reply):
    """One page of the list of files."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Reply):
    """The answer to the deletion of a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
    erasure_id: str | None = Field(description="Follow the rest under `GET /erasures/{erasure_id}`.")


class Upload(NamedTuple):
    """The fields of the form."""

    name: str
    size: int
    content: IO[bytes]
    lifetime: timedelta | None


@router.post("", openapi_extra=FORM_BODY, responses=documented(503, 507))
async def upload(request: Request, daemon: DaemonDep) -> FileBody:
    """Upload rows to learn from; a file with a row that cannot be learned is refused.

    Its rows are stored once, as feedback that is nobody's until `POST /v1/fine_tuning/jobs` names a profile.
    """
    with raise_disk_full(Path(tempfile.gettempdir())):
        form = await _form(request)
    try:
        given = _read_form(form)
        async with daemon.importing:
            return await run_in_threadpool(_store, given, daemon)
    finally:
        await form.close()


@router.get("")
def list_files(query: Annotated[FilesQuery, Query()], daemon: DaemonDep) -> FilePage:
    """List the uploaded files."""
    wanted = query.purpose in (None, PURPOSE)
    found = daemon.db.files.list(query.limit + 1, query.after, oldest_first=query.order == "asc") if wanted else []
    data = [_body(record) for record in found[: query.limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FilePage(data=data, first_id=first, last_id=last, has_more=len(found) > query.limit)


@router.get("/{file_id}", responses=documented(404))
def get(file_id: Id, daemon: DaemonDep) -> FileBody:
    """Return one file."""
    return _body(daemon.db.files.get(file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses=answers("One JSON object per line.", JSON_LINES, {"schema": {"type": "string"}}) | documented(404),
)
def content(file_id: Id, daemon: DaemonDep) -> StreamingResponse:
    """Return the rows of the file, written anew in OpenAI's formats; without those that were deleted since."""
    daemon.db.files.get(file_id)
    return StreamingResponse(_lines(daemon.db.files.each(file_id)), media_type=JSON_LINES)


@router.delete("/{file_id}", responses=documented(404, 503, 507))
async def delete(file_id: Id, daemon: DaemonDep) -> FileDeleted:
    """Delete the file and what was learned from it, as `DELETE /feedback/{feedback_id}` does with one row."""
    async with daemon.importing:  # no job takes it up meanwhile
        return await run_in_threadpool(_delete, file_id, daemon)


async def _form(request: Request) -> FormData:
    try:
        return await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise InvalidField("file", f"cannot be read: {error.detail}; send multipart/form-data") from error


def _read_form(form: FormData) -> Upload:
    """Return the fields. Raises InvalidField."""
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise InvalidField("file", "is missing; send multipart/form-data with a file and a purpose")
    if purpose != PURPOSE:
        raise InvalidField("purpose", f'must be "{PURPOSE}", not {purpose!a:.60}; files are for nothing else here')
    if others := [name for name in form if name not in FIELDS]:
        raise InvalidField(f"{others[0]!a:.60}", "is not a field of this request")
    try:
        name = storable(file.filename or "")[:NAME_CHARS] or "upload.jsonl"
    except ValueError as error:
        raise InvalidField("file", f"has a name that {error}") from error
    return Upload(name, file.size or 0, file.file, _lifetime(form))


def _lifetime(form: FormData) -> timedelta | None:
    anchor, seconds = form.get(ANCHOR), form.get(SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidField(ANCHOR, f'must be "created_at", not {anchor!a:.60}')
    if not (isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal() and 0 < len(seconds) < 10):
        raise InvalidField(SECONDS, f"must be a number of seconds, not {seconds!a:.60}")
    return timedelta(seconds=int(seconds))


def _store(given: Upload, daemon: Daemon) -> FileBody:
    """Check every row, and store them with the record of the file where all are right."""
    created, days = daemon.db.now(), daemon.settings.retention.file_days
    lifetime = given.lifetime or (timedelta(days=days) if days else None)
    expires = None if lifetime is None else created + lifetime
    record = FileRecord(
        new_id("file", created), created, given.name, given.size, expires=expires, uploader=daemon.profile
    )
    count = count_rows(read_batches(given.content, DEFAULT_PROFILE))
    rows = (batch.news for batch in read_batches(given.content, DEFAULT_PROFILE))
    daemon.db.imports.store(rows, count, file=record)
    return _body(record)


def _delete(file_id: str, daemon: Daemon) -> FileDeleted:
    erasure = daemon.db.erasures.file(file_id)
    return FileDeleted(id=file_id, erasure_id=deleted(daemon, erasure).erasure_id)


def _body(record: FileRecord) -> FileBody:
    expires = None if record.expires is None else seconds_of(record.expires)
    created = seconds_of(record.created)
    return FileBody(id=record.id, bytes=record.bytes, created_at=created, filename=record.name, expires_at=expires)


def seconds_of(moment: datetime) -> int:
    """Return the seconds since 1970."""
    return int(moment.timestamp())


def _lines(records: Iterator[FeedbackRecord]) -> Iterator[str]:
    for record in records:
        yield ascii_json(_row(record)) + "\n"


def _row(record: FeedbackRecord) -> dict[str, Any]:
    """Return the row in OpenAI's formats, a rating in TRL's."""
    messages, response, correction = list(record.messages), record.response, record.correction

    def reply(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    if correction is None:
        return {"prompt": messages, "completion": [reply(response)], "label": (record.rating or 0) > 0}
    if correction == response:
        return {"messages": [*messages, reply(correction)]}
    outputs = {"preferred_output": [reply(correction)], "non_preferred_output": [reply(response)]}
    return {"input": {"messages": messages}, **outputs}
