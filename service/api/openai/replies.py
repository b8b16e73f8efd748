"""Replies in OpenAI's shape, whole and streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from lars_agent.runtime.request import FinishReason, Generation, Piece
from service.api.choices import Choices, Event, ToRequest
from service.api.dependencies import Keeping
from service.api.errors import answers
from service.api.openai.request import OpenAIRequest
from service.api.streams import Exchange, event_stream, to_lines
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


async def begin(daemon: Daemon, body: OpenAIRequest, keeping: Keeping) -> Choices:
    """Submit the first of the request's replies; see `Exchange.begin`."""
    parameters = body.model_dump(exclude_none=True, exclude={"messages", "prompt"})
    keeping = keeping._replace(is_kept=keeping.is_kept and body.store is not False)

    async def submit(to_request: ToRequest) -> Exchange:
        return await Exchange.begin(daemon, body.model, to_request, parameters, keeping, recall=body.recall)

    requests = [partial(body.to_request, number=number) for number in range(body.candidates)]
    return await Choices.start(submit, requests, daemon.settings.runtime.parallel)


def envelope_of(exchange: Exchange, kind: str) -> dict[str, Any]:
    """Return the fields that the reply and each of its chunks have."""
    return {
        "id": exchange.interaction_id,
        "object": kind,
        "created": int(time.time()),
        "model": exchange.replier,
        "system_fingerprint": exchange.daemon.model_host.require_model().sha256[:12],
        "lars": {"recalled": exchange.recalled_bodies},
    }


async def whole_reply(
    choices: Choices,
    body: OpenAIRequest,
    request: Request,
    kind: str,
    to_choice: Callable[[Generation], dict[str, Any]],
) -> dict[str, Any]:
    """Return the reply that is not streamed; what is given of it is recorded."""
    done = await choices.finished(request)
    given = body.best(done)
    for one in given:
        await one.exchange.record(one.generation)
    shown = [
        _choice(index, one.exchange, len(given), to_choice(one.generation), reason_of(one.generation))
        for index, one in enumerate(given)
    ]
    envelope = envelope_of(given[0].exchange, kind)
    return envelope | {"choices": shown, "usage": usage([one.generation for one in done], body.of_each)}


def stream_reply(
    choices: Choices,
    body: OpenAIRequest,
    kind: str,
    to_choice: Callable[[int, Piece], dict[str, Any]],
    last: dict[str, Any],
    first: Sequence[dict[str, Any]] = (),
) -> EventSourceResponse:
    """Stream a chunk per choice (`first`, `to_choice` of each piece, `last`), the usage if asked for, and `[DONE]`."""
    common = envelope_of(choices.first, kind) | ({"usage": None} if body.includes_usage else {})
    done: dict[int, Generation] = {}

    def chunks(event: Event) -> list[dict[str, Any]]:
        item, shown, reason = event.item, list(first), None
        if isinstance(item, Piece):
            shown = [to_choice(event.number, item)]
        elif item is not None:
            shown, reason, done[event.number] = [last], reason_of(item), item
        several = [_choice(event.number, event.exchange, len(choices), one, reason) for one in shown]
        return [common | {"choices": [one]} for one in several]

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for event in choices.events():
            for chunk in chunks(event):
                yield chunk
        if body.includes_usage:
            generations = [done[index] for index in sorted(done)]
            yield common | {"choices": [], "usage": usage(generations, body.of_each)}

    async def lines() -> AsyncIterator[str]:
        async for line in to_lines(events()):
            yield line
        yield "[DONE]"

    return event_stream(lines())


def _choice(index: int, exchange: Exchange, count: int, shown: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """Return one of `count` choices; of several each has the id of its own interaction."""
    own = {"lars": {"interaction_id": exchange.interaction_id}} if count > 1 else {}
    return {"index": index, **shown, "finish_reason": reason, **own}


def reason_of(generation: Generation) -> str:
    """Return the reason why the reply ended, in OpenAI's words."""
    reason = REASONS[generation.finish_reason]
    return "tool_calls" if generation.calls and reason == "stop" else reason


def usage(generations: Sequence[Generation], of_each: int = 1) -> dict[str, Any]:
    """Return the number of tokens of all replies; a prompt counts once for its `of_each` replies."""
    prompts = generations[::of_each]
    read, made = sum(one.prompt_tokens for one in prompts), sum(one.generated_tokens for one in generations)
    return {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in prompts)},
    }
