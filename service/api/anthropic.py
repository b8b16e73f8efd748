"""Replies in the shape of Anthropic's messages: POST /v1/messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from sse_starlette import EventSourceResponse

from lars_agent.example import Message
from lars_agent.runtime.request import FinishReason, Generation, GenerationRequest, Piece
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, KeepingDep
from service.api.errors import EVERYWHERE, AnthropicErrorBody, answers, anthropic_error
from service.api.errors import documented as documented_errors
from service.api.fields import (
    STORABLE,
    Body,
    Number,
    RecallChoice,
    Reply,
    StopText,
    Switch,
    Text,
    Whole,
)
from service.api.model_names import ModelName
from service.api.streams import Exchange, encode_events, event_stream, generation_request, named_events
from service.api.turns import MAX_MESSAGES, Turn, asks, join_texts
from service.api.unsupported import describe_unsupported, without_unsupported

documented = partial(documented_errors, body=AnthropicErrorBody)
router = APIRouter(prefix="/v1", tags=["anthropic"], responses=documented(*EVERYWHERE))

STREAM = answers(
    "The reply; with `stream: true` server-sent events, from `message_start` to `message_stop`.", "text/event-stream"
)
REASONS: Mapping[FinishReason, Literal["end_turn", "max_tokens", "stop_sequence"]] = {
    "eos_token": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
}
BETWEEN = "\n"  # two blocks, and two messages of one role in a row, which are one turn
# Fields that clients send and that have no effect on a reply here.
WITHOUT_EFFECT = frozenset(
    {"metadata", "service_tier", "inference_geo", "cache_control", "thinking", "speed", "diagnostics"}
    | {"user_profile_id", "workspace_id"}
)
# Unsupported fields: accepted with one of these values, which turn them off, refused with any other.
OFF: Mapping[str, tuple[Any, ...]] = {
    "container": (None,),
    "context_management": (None,),
    "mcp_servers": (None, []),
    "output_config": (None, {}, *({"effort": effort} for effort in ("low", "medium", "high", "xhigh", "max"))),
    "output_format": (None,),
    "tools": (None, []),
    "tool_choice": (None, {"type": "auto"}, {"type": "none"}),
}
TEXT = {"type": "string", **STORABLE}
BLOCK = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}
CONTENT = WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": BLOCK}]})


def _text_of_blocks(value: Any) -> Any:
    return join_texts(value, "blocks", ("text",), BETWEEN)


class AnthropicTurn(Turn):
    """A message; its content may be a list of blocks of text."""

    role: Literal["user", "assistant"]
    content: Annotated[Text, BeforeValidator(_text_of_blocks), CONTENT]


def _add_unsupported(schema: dict[str, Any]) -> None:
    describe_unsupported(schema, WITHOUT_EFFECT, OFF)


class MessagesRequest(Body):
    """A conversation to reply to."""

    model_config = ConfigDict(json_schema_extra=_add_unsupported)

    model: ModelName = None
    max_tokens: Whole = Field(ge=1, le=1_000_000)
    messages: Annotated[list[AnthropicTurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(asks)]
    system: Annotated[Text, BeforeValidator(_text_of_blocks), CONTENT] | None = None
    stop_sequences: list[StopText] | None = Field(default=None, max_length=16)
    temperature: Number | None = Field(default=None, ge=0, le=1, description="0 is greedy; 1 by default.")
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0, le=2**31)
    recall: RecallChoice = None
    stream: Switch | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, values: Any) -> Any:
        return without_unsupported(values, WITHOUT_EFFECT, OFF)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        system = [Message(role="system", content=self.system)] if self.system and self.system.strip() else []
        return generation_request(
            adapter,
            (*system, *_turns(self.messages)),
            max_new_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop_sequences or ()),
        )


class MessageBody(Reply):
    """A reply in Anthropic's shape."""

    id: str = Field(
        description="The `interaction_id` for feedback, unless the reply was not kept, or the disk was full."
    )
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]] = Field(description="One block of text.")
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence"] | None
    stop_sequence: str | None
    usage: dict[str, int]
    lars: dict[str, Any] = Field(description="`recalled`: the corrections in the prompt, the best first.")


@router.post("/messages", response_model=MessageBody, responses=STREAM | documented(404, 409, 503, 504))
async def create(body: MessagesRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""
    parameters = body.model_dump(exclude_none=True, exclude={"messages", "system"})
    exchange = await Exchange.begin(daemon, body.model, body.to_request, parameters, keeping, recall=body.recall)
    message: dict[str, Any] = {
        "id": exchange.interaction_id,
        "type": "message",
        "role": "assistant",
        "model": exchange.replier,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
        "lars": {"recalled": exchange.recalled_bodies},
    }
    if body.stream:
        return _stream(exchange, message)
    generation = await exchange.finished(request)
    content = [{"type": "text", "text": generation.text}]
    return message | {"content": content, "usage": _usage(generation), **_end(generation)}


def _stream(exchange: Exchange, message: dict[str, Any]) -> EventSourceResponse:
    block = {"type": "text", "text": ""}
    first: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
    ]
    return event_stream(named_events(encode_events(exchange, _encode, first, anthropic_error)))


def _encode(item: Piece | Generation) -> list[dict[str, Any]]:
    if isinstance(item, Piece):
        delta = {"type": "text_delta", "text": item.text}
        return [{"type": "content_block_delta", "index": 0, "delta": delta}]
    return [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": _end(item), "usage": _usage(item)},
        {"type": "message_stop"},
    ]


def _end(generation: Generation) -> dict[str, Any]:
    return {"stop_reason": REASONS[generation.finish_reason], "stop_sequence": generation.stop_sequence}


def _usage(generation: Generation) -> dict[str, int]:
    """Return the number of tokens; those that were in the cache do not count as read."""
    return {
        "input_tokens": generation.prompt_tokens - generation.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": generation.cached_tokens,
        "output_tokens": generation.generated_tokens,
    }


def _turns(messages: Sequence[AnthropicTurn]) -> list[Message]:
    """Return the messages as turns that alternate, as Anthropic takes them."""
    groups = groupby(messages, key=lambda message: message.role)
    return [Message(role=role, content=BETWEEN.join(one.content for one in group)) for role, group in groups]
