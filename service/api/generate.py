"""Replies: POST /generate, and POST /generate_stream for the same in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import structlog
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse

from lars_agent.errors import LarsError
from lars_agent.runtime.request import Generation
from service.api.dependencies import DaemonDep
from service.api.errors import UNEXPECTED, ascii_json, documented, error_body, status_of
from service.api.fields import version_label
from service.api.parameters import GenerateRequest, StreamRequest
from service.api.schemas import GenerateReply, GenerationDetails, StreamEvent, StreamToken
from service.api.streams import Exchange, event_stream
from service.daemon import Daemon

log = structlog.get_logger(__name__)
router = APIRouter(tags=["generation"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; each `data` is a StreamEvent, or an ErrorBody if it breaks off.",
        "content": {"text/event-stream": {}},
    }
}


@router.post("/generate", responses=documented(404, 409, 503, 504))
async def generate(body: GenerateRequest, request: Request, daemon: DaemonDep) -> GenerateReply:
    """The reply to `inputs`, recorded before it is answered. Nobody waits for it when the client has gone."""
    exchange = await _begin(daemon, body)
    return _reply(exchange, await exchange.finished(request))


@router.post("/generate_stream", response_model=StreamEvent, responses=STREAM | documented(404, 409, 503, 504))
async def generate_stream(body: StreamRequest, daemon: DaemonDep) -> EventSourceResponse:
    """The reply in pieces as they are made; the last event carries the whole text, its id and the details."""
    return event_stream(_events(await _begin(daemon, body)))


async def _begin(daemon: Daemon, body: GenerateRequest) -> Exchange:
    given = body.parameters
    return await Exchange.begin(daemon, given.adapter_id, body.to_request, given.model_dump(exclude_none=True))


async def _events(exchange: Exchange) -> AsyncIterator[dict[str, str]]:
    index = 0
    try:
        async for piece in exchange.pieces():
            yield _event(StreamEvent(index=index, token=StreamToken(text=piece.text)))
            index += 1
        reply = _reply(exchange, exchange.ticket.result())
        yield _event(StreamEvent(index=index, token=StreamToken(text="", special=True), **dict(reply)))
    except LarsError as error:
        yield {"data": ascii_json(error_body(status_of(error), str(error)))}
    except Exception:
        log.exception("stream_broke_off")
        yield {"data": ascii_json(error_body(500, UNEXPECTED))}


def _event(event: StreamEvent) -> dict[str, str]:
    return {"data": ascii_json(event.model_dump(mode="json"))}


def _reply(exchange: Exchange, generation: Generation) -> GenerateReply:
    details = GenerationDetails(
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        generated_tokens=generation.generated_tokens,
        adapter_version=version_label(generation.adapter_version),
        seed=generation.seed,
    )
    return GenerateReply(generated_text=generation.text, interaction_id=exchange.recorded_id, details=details)
