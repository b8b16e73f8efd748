"""Replies: POST /generate, and POST /generate_stream for the same in pieces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from lars_agent.errors import LarsError
from lars_agent.runtime.request import Generation, Piece, Ticket
from service.api.dependencies import DaemonDep
from service.api.errors import UNEXPECTED, ascii_json, documented, error_body, status_of
from service.api.fields import version_label
from service.api.parameters import GenerateRequest, StreamRequest
from service.api.schemas import GenerateReply, GenerationDetails, StreamEvent, StreamToken
from service.daemon import Daemon

log = structlog.get_logger(__name__)
router = APIRouter(tags=["generation"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; each `data` is a StreamEvent, or an ErrorBody if it breaks off.",
        "content": {"text/event-stream": {}},
    }
}


@router.post("/generate", responses=documented(404, 409, 503, 507))
async def generate(body: GenerateRequest, request: Request, daemon: DaemonDep) -> GenerateReply:
    """The reply to `inputs`, stored before it is answered. Nobody waits for it when the client has gone."""
    ticket = await run_in_threadpool(daemon.serving.submit, body.to_request())
    watch = asyncio.create_task(_cancel_when_gone(request, ticket))
    try:
        generation = await run_in_threadpool(ticket.result)
    finally:
        watch.cancel()
    return await run_in_threadpool(_store, daemon, ticket, body, generation)


@router.post("/generate_stream", response_model=StreamEvent, responses=STREAM | documented(404, 409, 503, 507))
async def generate_stream(body: StreamRequest, daemon: DaemonDep) -> EventSourceResponse:
    """The reply in pieces as they are made; the last event carries the whole text, its id and the details."""
    ticket = await run_in_threadpool(daemon.serving.submit, body.to_request())
    return EventSourceResponse(_events(daemon, ticket, body))


async def _events(daemon: Daemon, ticket: Ticket, body: GenerateRequest) -> AsyncIterator[dict[str, str]]:
    index = 0
    try:
        pieces = iter(ticket)
        while (piece := await run_sync(_next, pieces, abandon_on_cancel=True)) is not None:
            yield _event(StreamEvent(index=index, token=StreamToken(text=piece.text)))
            index += 1
        reply = await run_in_threadpool(_store, daemon, ticket, body, ticket.result())
        yield _event(StreamEvent(index=index, token=StreamToken(text="", special=True), **dict(reply)))
    except LarsError as error:
        yield {"data": ascii_json(error_body(status_of(error), str(error)))}
    except Exception:
        log.exception("stream_broke_off")
        yield {"data": ascii_json(error_body(500, UNEXPECTED))}
    finally:
        ticket.cancel()  # the client may have gone; for a finished reply it means nothing


def _event(event: StreamEvent) -> dict[str, str]:
    return {"data": ascii_json(event.model_dump(mode="json"))}


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece; None after the last one. (No StopIteration may leave a thread.)"""
    return next(pieces, None)


async def _cancel_when_gone(request: Request, ticket: Ticket) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        ticket.cancel()


def _store(daemon: Daemon, ticket: Ticket, body: GenerateRequest, generation: Generation) -> GenerateReply:
    """The reply, which is stored."""
    interaction_id = daemon.db.interactions.add(
        profile=ticket.request.profile,
        messages=ticket.request.messages,
        parameters=body.parameters.model_dump(exclude_none=True),
        response=generation.text,
        adapter_version=generation.adapter_version,
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        generated_tokens=generation.generated_tokens,
        seed=generation.seed,
    )
    details = GenerationDetails(
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        generated_tokens=generation.generated_tokens,
        adapter_version=version_label(generation.adapter_version),
        seed=generation.seed,
    )
    return GenerateReply(generated_text=generation.text, interaction_id=interaction_id, details=details)
