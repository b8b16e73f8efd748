"""OpenAI's responses: POST /v1/responses, and those that are stored. A response is an interaction, under its id."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from lars_agent.runtime.request import FinishReason, Generation, Piece, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, Keeping, KeepingDep
from service.api.erasures import deleted
from service.api.errors import answers, documented
from service.api.fields import Id, Reply
from service.api.openai.chat import chat_logprobs
from service.api.openai.responses_request import (
    INTERACTION_ID,
    MESSAGE_ID,
    RESPONSE_ID,
    ResponsesRequest,
    instructions_of,
    stored,
)
from service.api.streams import Encoder, Exchange, encode_events, event_stream, named_events
from service.daemon import Daemon

router = APIRouter(prefix="/v1/responses", tags=["openai"])

STREAM = answers(
    "The response; with `stream: true` server-sent events, from `response.created` to `response.completed`.",
    "text/event-stream",
)


class ResponseBody(BaseModel):
    """A response in OpenAI's shape, which may have more fields than these."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]


class DeletedResponse(Reply):
    """A response that was deleted. Follow the rest under `GET /erasures/{erasure_id}`."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
    erasure_id: str


@router.post("", response_model=ResponseBody, responses=STREAM | documented(404, 409, 503, 504))
async def create(body: ResponsesRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a text or a conversation, by itself or after an earlier response."""
    exchange = await _begin(daemon, body, keeping)
    envelope = _envelope(
        exchange.interaction_id,
        int(time.time()),
        exchange.replier,
        exchange.parameters,
        instructions=body.instructions,
        store=exchange.keeping.is_kept,
        lars={"recalled": exchange.recalled_bodies},
    )
    if body.stream:
        return _stream(exchange, envelope)
    return _whole(exchange, envelope, await exchange.finished(request))


@router.get("/{response_id}", responses=documented(404))
def get(response_id: Id, daemon: DaemonDep) -> ResponseBody:
    """Return a stored response; the id of any interaction will do."""
    record = daemon.db.interactions.get(response_id)
    replier, created = AdapterName(record.profile, record.adapter_version).label, int(record.created.timestamp())
    own: dict[str, Any] = {"instructions": instructions_of(record), "store": True}
    envelope = _envelope(record.id, created, replier, record.parameters, **own)
    usage = _usage(record.prompt_tokens, record.generated_tokens)
    return ResponseBody(**_ended(envelope, record.finish_reason, record.response, usage))


@router.delete("/{response_id}", responses=documented(404, 503, 507))
def delete(response_id: Id, daemon: DaemonDep) -> DeletedResponse:
    """Delete a stored response and the feedback on it, as `DELETE /interactions/{interaction_id}` does."""
    erasure = daemon.db.erasures.interaction(response_id)
    deleted(daemon, erasure)
    return DeletedResponse(id=response_id, erasure_id=erasure.id)


async def _begin(daemon: Daemon, body: ResponsesRequest, keeping: Keeping) -> Exchange:
    """Submit the request; a response belongs to the conversation of the one that it comes after."""

    def find() -> tuple[Any, str | None]:
        before = body.previous_response_id
        earlier = None if before is None else stored(daemon.db, before, "previous_response_id")
        return body.messages(daemon.db, earlier), earlier.conversation if earlier else None

    messages, conversation = await run_in_threadpool(find)
    keeping = Keeping(keeping.is_kept and body.store is not False, keeping.conversation or conversation)
    exchange = await Exchange.begin(
        daemon,
        body.model,
        lambda adapter: body.to_request(adapter, messages),
        body.parameters(),
        keeping,
        recall=body.recall,
    )
    exchange.interaction_id = RESPONSE_ID + exchange.interaction_id.removeprefix(INTERACTION_ID)  # clients look for it
    return exchange


def _stream(exchange: Exchange, envelope: dict[str, Any]) -> EventSourceResponse:
    number = count()

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(number), **fields}

    def failed(status: int, message: str) -> dict[str, Any]:
        error = {"code": "server_error", "message": message}
        return event("failed", response=envelope | {"status": "failed", "error": error})

    item_id = _message_id(exchange.interaction_id)
    first = [
        event("created", response=envelope),
        event("in_progress", response=envelope),
        event("output_item.added", output_index=0, item=_message(item_id, "in_progress", [])),
        event("content_part.added", item_id=item_id, output_index=0, content_index=0, part=_part("")),
    ]
    return event_stream(named_events(encode_events(exchange, _encoder(exchange, envelope, event), first, failed)))


def _encoder(exchange: Exchange, envelope: dict[str, Any], event: Callable[..., dict[str, Any]]) -> Encoder:
    """Return the encoder of what comes after the first events, all of them of one message with one part."""
    where = {"item_id": _message_id(exchange.interaction_id), "output_index": 0, "content_index": 0}

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        if isinstance(item, Piece):
            return [event("output_text.delta", **where, delta=item.text, logprobs=_logprobs(item.logprobs))]
        whole = _whole(exchange, envelope, item)
        (message,) = whole["output"]
        (part,) = message["content"]
        return [
            event("output_text.done", **where, text=part["text"], logprobs=part["logprobs"]),
            event("content_part.done", **where, part=part),
            event("output_item.done", output_index=0, item=message),
            event(whole["status"], response=whole),
        ]

    return encode


def _whole(exchange: Exchange, envelope: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """Return the response with its reply, which has been recorded if it is stored."""
    usage = _usage(generation.prompt_tokens, generation.generated_tokens, generation.cached_tokens)
    own = {"store": exchange.recorded_id is not None, "completed_at": int(time.time())}
    return _ended(envelope | own, generation.finish_reason, generation.text, usage, generation.logprobs)


def _envelope(name: str, created: int, model: str, parameters: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """Return a response without its reply."""
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "max_output_tokens": parameters.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": parameters.get("metadata", {}),
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": parameters.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "temperature": parameters.get("temperature", 1.0),
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": parameters.get("top_logprobs", 0),
        "top_p": parameters.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": None,
        **own,
    }


def _ended(
    envelope: dict[str, Any],
    reason: FinishReason | str,
    text: str,
    usage: dict[str, Any],
    logprobs: Sequence[TokenLogprob] = (),
) -> dict[str, Any]:
    """Return the response with its reply; one that was cut off is incomplete."""
    status = "incomplete" if reason == "length" else "completed"
    details = {"reason": "max_output_tokens"} if reason == "length" else None
    output = [_message(_message_id(envelope["id"]), status, [_part(text, logprobs)])]
    return envelope | {"status": status, "incomplete_details": details, "output": output, "usage": usage}


def _message_id(name: str) -> str:
    """Return the id of the message in the response `name`; see `responses_request.stored`."""
    return MESSAGE_ID + name.removeprefix(RESPONSE_ID)


def _message(item_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat_logprobs(tokens)["content"]
    return found


def _usage(prompt_tokens: int, generated_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + generated_tokens,
    }
