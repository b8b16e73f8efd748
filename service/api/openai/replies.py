"""Replies in OpenAI's shape, whole and streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from lars_agent.runtime.request import FinishReason, Generation, Piece
from service.api.dependencies import Keeping
from service.api.errors import answers
from service.api.fields import RecalledBody
from service.api.openai.request import OpenAIRequest
from service.api.streams import Exchange, encode_stream, event_stream
from service.daemon import Daemon

STREAM = answers(
    "The reply; with `stream: true` server-sent events, each `data` a chunk, the last one `[DONE]`.",
    "text/event-stream",
)
REASONS: Mapping[FinishReason, Literal["stop", "length"]] = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}


class OpenAIReply(BaseModel):
    """A reply in OpenAI's shape, which may have more fields than these."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(
        description="The `interaction_id` for feedback, unless the reply was not kept, or the disk was full."
    )
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]


async def begin(daemon: Daemon, body: OpenAIRequest, keeping: Keeping) -> Exchange:
    """Submit the request; see `Exchange.begin`."""
    parameters = body.model_dump(exclude_none=True, exclude={"messages", "prompt"})
    keeping = keeping._replace(is_kept=keeping.is_kept and body.store is not False)
    return await Exchange.begin(daemon, body.model, body.to_request, parameters, keeping, recall=body.recall)


def envelope_of(exchange: Exchange, kind: str) -> dict[str, Any]:
    """Return the fields that the reply and each of its chunks have."""
    return {
        "id": exchange.interaction_id,
        "object": kind,
        "created": int(time.time()),
        "model": exchange.replier,
        "system_fingerprint": exchange.daemon.model_host.require_model().sha256[:12],
        "lars": {"recalled": [RecalledBody.model_validate(one).model_dump() for one in exchange.recalled]},
    }


def whole_reply(envelope: dict[str, Any], generation: Generation, choice: dict[str, Any]) -> dict[str, Any]:
    """Return the reply that is not streamed."""
    choices = [{"index": 0} | choice | {"finish_reason": reason_of(generation)}]
    return envelope | {"choices": choices, "usage": usage(generation)}


def stream_reply(
    exchange: Exchange,
    body: OpenAIRequest,
    envelope: dict[str, Any],
    to_choice: Callable[[Piece], dict[str, Any]],
    last: dict[str, Any],
    first: Sequence[dict[str, Any]] = (),
) -> EventSourceResponse:
    """Stream a chunk per choice (`first`, `to_choice` of each piece, `last`), the usage if asked for, and `[DONE]`."""
    common = envelope | ({"usage": None} if body.includes_usage else {})

    def chunk(choice: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return common | {"choices": [{"index": 0} | choice | {"finish_reason": reason}]}

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        if isinstance(item, Piece):
            return [chunk(to_choice(item))]
        end = chunk(last, reason_of(item))
        return [end, common | {"choices": [], "usage": usage(item)}] if body.includes_usage else [end]

    async def events() -> AsyncIterator[str]:
        async for event in encode_stream(exchange, encode, [chunk(choice) for choice in first]):
            yield event
        yield "[DONE]"

    return event_stream(events())


def reason_of(generation: Generation) -> str:
    """Return the reason why the reply ended, in OpenAI's words."""
    reason = REASONS[generation.finish_reason]
    return "tool_calls" if generation.calls and reason == "stop" else reason


def usage(generation: Generation) -> dict[str, Any]:
    """Return the number of tokens."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.generated_tokens,
        "total_tokens": generation.prompt_tokens + generation.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }
