"""Import of feedback: every row of a file or none, and none that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from tempfile import TemporaryFile
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from lars_agent.files import raise_disk_full
from service.api.dependencies import DaemonDep
from service.api.errors import InvalidField, documented
from service.api.fields import Flag, ProfileQuery, Reply, Tag
from service.api.import_rows import ROWS, Batch, read_batches
from service.daemon import Daemon
from service.db.known import KnownFeedback

router = APIRouter(prefix="/feedback", tags=["feedback"])

JSON_LINES, NDJSON, JSON = "application/jsonl", "application/x-ndjson", "application/json"
MOST_REFUSED = 1000  # rows that a dry run tells
NO_ROW = InvalidField("body", "contains no line; send one JSON object per line, or a JSON list")
ROWS_SCHEMA: dict[str, Any] = {"schema": ROWS, "example": '{"prompt": "Hi", "completion": "Hello!"}\n'}
LIST_SCHEMA: dict[str, Any] = {"schema": ROWS, "example": [{"instruction": "Say hi.", "output": "Hi!"}]}
ROWS_BODY = {
    "requestBody": {"required": True, "content": {NDJSON: ROWS_SCHEMA, JSON_LINES: ROWS_SCHEMA, JSON: LIST_SCHEMA}}
}


class ImportQuery(ProfileQuery):
    """Profile and tag of the imported feedback."""

    tag: Tag | None = None
    dry_run: Flag = Field(default=False, description="Only tell what would be stored, and which lines are refused.")


class RefusedLine(Reply):
    """A line, or an item of a list, that cannot be imported, and the reason."""

    line: int
    message: str


class Imported(Reply):
    """Number of stored rows; of a dry run what would be stored, and the lines that prevent it."""

    imported: int
    already_there: int | None = Field(
        default=None, description="Rows that the profile has already and that are not stored again; missing if none."
    )
    valid: int | None = Field(default=None, description="Of a dry run: number of lines that can be imported.")
    refused: list[RefusedLine] | None = Field(
        default=None, description="Of a dry run: the others; nothing is stored if there are any."
    )


@router.post(
    "/import",
    status_code=201,
    response_model_exclude_none=True,
    openapi_extra=ROWS_BODY,
    responses=documented(503, 507),
)
async def import_rows(request: Request, query: Annotated[ImportQuery, Query()], daemon: DaemonDep) -> Imported:
    """Import JSON lines, or a JSON list, in TRL's formats, OpenAI's, ShareGPT's, Alpaca's, or as Open WebUI exports it.

    All rows are stored, or none; those that the profile has already are counted. `GET /info` tells how far it is.
    """
    folder = daemon.settings.data_dir
    with raise_disk_full(folder), TemporaryFile(dir=folder) as file:  # without a name: nothing is left of it
        async for chunk in request.stream():
            file.write(chunk)
        file.flush()
        async with nullcontext() if query.dry_run else daemon.importing:  # here nobody waits in a thread
            return await run_in_threadpool(_import, file, query, daemon)


def count_rows(batches: Iterator[Batch]) -> int:
    """Return the number of pieces of feedback in the rows. Raises InvalidField where there is none, or a row is bad."""
    rows = valid = 0
    for batch in batches:
        for error in batch.refused.values():
            raise error
        rows, valid = rows + batch.rows, valid + len(batch.news)
    if not rows:
        raise NO_ROW
    if not valid:
        raise InvalidField("body", "holds nothing to learn: no reply in it was rated, remarked on or edited")
    return valid


def _import(file: IO[bytes], query: ImportQuery, daemon: Daemon) -> Imported:
    """Check every row, and store those that are new where all are right."""

    def batches() -> Iterator[Batch]:
        return read_batches(file, query.profile, () if query.tag is None else (query.tag,))

    if query.dry_run:
        return _tell(batches(), query.profile, daemon)
    valid = count_rows(batches())
    with closing(KnownFeedback(daemon.db.feedback, query.profile)) as known:
        stored = daemon.db.imports.store((batch.news for batch in batches()), valid, known.take)
    return Imported(imported=stored, already_there=valid - stored or None)


def _tell(batches: Iterator[Batch], profile: str, daemon: Daemon) -> Imported:
    """Return what an import would store, and the rows that prevent it."""
    rows = valid = there = 0
    refused = dict[int, InvalidField]()
    with closing(KnownFeedback(daemon.db.feedback, profile)) as known:
        for batch in batches:
            rows, valid = rows + batch.rows, valid + len(batch.news)
            there += sum(not known.take(new) for new in batch.news)
            refused |= batch.refused
            if len(refused) > MOST_REFUSED:
                break
    if not rows:
        raise NO_ROW
    lines = [RefusedLine(line=number, message=str(error)) for number, error in refused.items()]
    if len(lines) > MOST_REFUSED:
        message = f"{MOST_REFUSED:,} lines before it are refused; it and those behind it are not told"
        lines[MOST_REFUSED:] = [RefusedLine(line=lines[MOST_REFUSED].line, message=message)]
    return Imported(imported=0, valid=valid, already_there=there or None, refused=lines)
