"""OpenAI's dialect: chat completions, completions, and the list of models (adapters, that is)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from fastapi import APIRouter, Request

from lars_agent.errors import LarsError
from lars_agent.runtime.request import Generation, Piece
from service.api.dependencies import DaemonDep
from service.api.errors import UNEXPECTED, ascii_json, documented, error_body, status_of
from service.api.openai_schemas import (
    REASONS,
    ChatRequest,
    CompletionRequest,
    OpenAIReply,
    OpenAIRequest,
    chat_logprobs,
    completion_logprobs,
    usage,
)
from service.api.streams import Exchange, event_stream
from service.daemon import Daemon

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1", tags=["openai"])

DONE = "[DONE]"
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The reply; with `stream: true` server-sent events, each `data` a chunk, the last one `[DONE]`.",
        "content": {"text/event-stream": {}},
    }
}
Choice = Callable[..., dict[str, Any]]


@router.post("/chat/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def chat(body: ChatRequest, request: Request, daemon: DaemonDep) -> Any:
    """The reply to a conversation."""
    exchange = await _begin(daemon, body)
    envelope = _envelope(exchange, "chat.completion")
    if body.stream:
        return event_stream(_chunks(exchange, body, envelope | {"object": "chat.completion.chunk"}, _ChatChunks()))
    generation = await exchange.finished(request)
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    told = chat_logprobs(generation.logprobs) if body.logprobs else None
    return _whole(envelope, generation, {"index": 0, "message": message, "logprobs": told})


@router.post("/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def complete(body: CompletionRequest, request: Request, daemon: DaemonDep) -> Any:
    """How a text goes on."""
    exchange = await _begin(daemon, body)
    envelope = _envelope(exchange, "text_completion")
    if body.stream:
        return event_stream(_chunks(exchange, body, envelope, _TextChunks()))
    generation = await exchange.finished(request)
    told = None if body.logprobs is None else completion_logprobs(generation.logprobs, 0)
    return _whole(envelope, generation, {"index": 0, "text": generation.text, "logprobs": told})


class _ChatChunks:
    """The choices of a chat's chunks."""

    def first(self) -> dict[str, Any] | None:
        return {"index": 0, "delta": {"role": "assistant", "content": ""}}

    def piece(self, piece: Piece) -> dict[str, Any]:
        told = chat_logprobs(piece.logprobs) if piece.logprobs else None
        return {"index": 0, "delta": {"content": piece.text}, "logprobs": told}

    def last(self) -> dict[str, Any]:
        return {"index": 0, "delta": {}}


class _TextChunks:
    """The choices of a completion's chunks."""

    def __init__(self) -> None:
        self._length = 0

    def first(self) -> dict[str, Any] | None:
        return None

    def piece(self, piece: Piece) -> dict[str, Any]:
        told = completion_logprobs(piece.logprobs, self._length) if piece.logprobs else None
        self._length += len(piece.text)
        return {"index": 0, "text": piece.text, "logprobs": told}

    def last(self) -> dict[str, Any]:
        return {"index": 0, "text": ""}


async def _begin(daemon: Daemon, body: ChatRequest | CompletionRequest) -> Exchange:
    said = body.model_dump(exclude_none=True, exclude={"messages", "prompt"})
    return await Exchange.begin(daemon, body.model, body.to_request, said)


def _envelope(exchange: Exchange, kind: str) -> dict[str, Any]:
    """What every body of this reply has."""
    return {
        "id": exchange.interaction_id,
        "object": kind,
        "created": int(time.time()),
        "model": exchange.replier,
        "system_fingerprint": exchange.daemon.serving.require_model().sha256[:12],
    }


def _whole(envelope: dict[str, Any], generation: Generation, choice: dict[str, Any]) -> dict[str, Any]:
    choices = [choice | {"finish_reason": REASONS[generation.finish_reason]}]
    return envelope | {"choices": choices, "usage": usage(generation)}


async def _chunks(
    exchange: Exchange, body: OpenAIRequest, envelope: dict[str, Any], made: _ChatChunks | _TextChunks
) -> AsyncIterator[dict[str, str]]:
    def chunk(choices: list[dict[str, Any]], told: Any = None) -> dict[str, str]:
        more = {"usage": told} if body.tells_usage else {}
        return {"data": ascii_json(envelope | {"choices": choices} | more)}

    try:
        if (first := made.first()) is not None:
            yield chunk([first | {"finish_reason": None}])
        async for piece in exchange.pieces():
            yield chunk([made.piece(piece) | {"finish_reason": None}])
        generation = exchange.ticket.result()
        yield chunk([made.last() | {"finish_reason": REASONS[generation.finish_reason]}])
        if body.tells_usage:
            yield chunk([], usage(generation))
    except LarsError as error:
        yield {"data": ascii_json(error_body(status_of(error), str(error)))}
    except Exception:
        log.exception("stream_broke_off")
        yield {"data": ascii_json(error_body(500, UNEXPECTED))}
    yield {"data": DONE}
