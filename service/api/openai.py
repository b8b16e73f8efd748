"""OpenAI's dialect: chat completions and completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from sse_starlette import EventSourceResponse

from lars_agent.example import Message
from lars_agent.runtime.request import FinishReason, Generation, GenerationRequest, Piece, TokenChoice, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, Keeping, KeepingDep
from service.api.errors import answers, documented
from service.api.fields import (
    MAX_MESSAGES,
    STORABLE,
    Body,
    Number,
    RecallChoice,
    RecalledBody,
    SamplingFields,
    Switch,
    Text,
    Turn,
    Whole,
    as_list,
    ends_with_user,
    is_one_of,
    to_messages,
)
from service.api.model_names import ModelName
from service.api.streams import Exchange, encode_stream, event_stream, generation_request
from service.daemon import Daemon

router = APIRouter(prefix="/v1", tags=["openai"])

STREAM = answers(
    "The reply; with `stream: true` server-sent events, each `data` a chunk, the last one `[DONE]`.",
    "text/event-stream",
)
MAX_LOGPROBS = 20
# Fields that clients send and that have no effect here.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
    | {"parallel_tool_calls", "reasoning_effort", "verbosity", "prediction"}
)
# Unsupported fields: accepted with one of these values, which turn them off, refused with any other.
OFF: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
}
TEXT = {"type": "string", **STORABLE}
TEXT_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}
REASONS: Mapping[FinishReason, Literal["stop", "length"]] = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}


def _text_of_parts(value: Any) -> Any:
    """Join text parts; anything else is left for the field to refuse."""
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    return "" if value is None else value


class OpenAITurn(Turn):
    """A message; its content may be a list of text parts."""

    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
        WithJsonSchema({"type": "string", "enum": ["system", "user", "assistant", "developer"]}),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_text_of_parts),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT_PART}, {"type": "null"}]}),
    ]
    name: str | None = Field(default=None, max_length=100, description="Accepted without effect.")


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: Switch | None = Field(default=None, description="Send the number of tokens in a last chunk.")
    include_obfuscation: Switch | None = Field(default=None, description="Accepted without effect.")


def _add_unsupported(schema: dict[str, Any]) -> None:
    """Describe the fields of OpenAI's that are accepted without effect, or with the value that turns them off."""
    free = {name: {"description": "Accepted without effect."} for name in sorted(WITHOUT_EFFECT)}
    off = {name: {"enum": list(values), "description": "Not supported."} for name, values in OFF.items()}
    schema["properties"] = {**free, **off, **schema["properties"]}


class OpenAIRequest(SamplingFields, Body):
    """Fields that chat completions and completions share."""

    model_config = ConfigDict(json_schema_extra=_add_unsupported)

    model: ModelName = None
    temperature: Number | None = Field(default=None, ge=0, le=2, description="0 is greedy; 1 by default.")
    top_p: Number | None = Field(default=None, gt=0, le=1)
    repetition_penalty: Number | None = Field(default=None, ge=0.1, le=10)
    max_tokens: Whole | None = Field(default=None, ge=1, le=1_000_000)
    recall: RecallChoice = None
    store: Switch | None = Field(default=None, description="false: answered, but neither kept nor learned from.")
    stream: Switch | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {
            key: value
            for key, value in values.items()
            if key not in WITHOUT_EFFECT and not (key in OFF and is_one_of(value, OFF[key]))
        }

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _sampling(self) -> dict[str, Any]:
        """Return the parameters of `generation_request` that both kinds of completion set."""
        shared = self.model_dump(include={*SamplingFields.model_fields, "top_p", "repetition_penalty"})
        return shared | {
            "max_new_tokens": self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "stop": tuple(self.stop or ()),
            "seed": None if self.seed is None else self.seed % 2**63,
        }


class ChatRequest(OpenAIRequest):
    """A conversation to reply to."""

    messages: Annotated[list[OpenAITurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(ends_with_user)]
    max_completion_tokens: Whole | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: Switch | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        sampling = self._sampling()
        sampling["max_new_tokens"] = self.max_completion_tokens or self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return generation_request(adapter, to_messages(self.messages), logprobs=logprobs, **sampling)


class CompletionRequest(OpenAIRequest):
    """A text to continue, without a chat template."""

    prompt: Annotated[
        list[Text],
        BeforeValidator(as_list),
        Field(min_length=1, max_length=1),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}]}),
    ]
    logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        text = self.prompt[0]
        messages = (Message(role="user", content=text),)
        return generation_request(adapter, messages, raw=text, logprobs=self.logprobs, **self._sampling())


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


@router.post("/chat/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def chat(body: ChatRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""
    exchange = await _begin(daemon, body, keeping)
    envelope = _envelope(exchange, "chat.completion")
    if body.stream:
        envelope |= {"object": "chat.completion.chunk"}
        first = {"delta": {"role": "assistant", "content": ""}}
        return _stream(exchange, body, envelope, _chat_choice, {"delta": {}}, [first])
    generation = await exchange.finished(request)
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    logprobs = chat_logprobs(generation.logprobs) if body.logprobs else None
    return _whole(envelope, generation, {"message": message, "logprobs": logprobs})


@router.post("/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def complete(body: CompletionRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Continue a text."""
    exchange = await _begin(daemon, body, keeping)
    envelope = _envelope(exchange, "text_completion")
    if body.stream:
        return _stream(exchange, body, envelope, _text_choices(), {"text": ""})
    generation = await exchange.finished(request)
    logprobs = None if body.logprobs is None else completion_logprobs(generation.logprobs, 0)
    return _whole(envelope, generation, {"text": generation.text, "logprobs": logprobs})


async def _begin(daemon: Daemon, body: ChatRequest | CompletionRequest, keeping: Keeping) -> Exchange:
    parameters = body.model_dump(exclude_none=True, exclude={"messages", "prompt"})
    keeping = keeping._replace(is_kept=keeping.is_kept and body.store is not False)
    return await Exchange.begin(daemon, body.model, body.to_request, parameters, keeping, recall=body.recall)


def _envelope(exchange: Exchange, kind: str) -> dict[str, Any]:
    """Return the fields that the reply and each of its chunks have."""
    return {
        "id": exchange.interaction_id,
        "object": kind,
        "created": int(time.time()),
        "model": exchange.replier,
        "system_fingerprint": exchange.daemon.model_host.require_model().sha256[:12],
        "lars": {"recalled": [RecalledBody.model_validate(one).model_dump() for one in exchange.recalled]},
    }


def _whole(envelope: dict[str, Any], generation: Generation, choice: dict[str, Any]) -> dict[str, Any]:
    choices = [{"index": 0} | choice | {"finish_reason": REASONS[generation.finish_reason]}]
    return envelope | {"choices": choices, "usage": usage(generation)}


def _stream(
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
        end = chunk(last, REASONS[item.finish_reason])
        return [end, common | {"choices": [], "usage": usage(item)}] if body.includes_usage else [end]

    async def events() -> AsyncIterator[str]:
        async for event in encode_stream(exchange, encode, [chunk(choice) for choice in first]):
            yield event
        yield "[DONE]"

    return event_stream(events())


def _chat_choice(piece: Piece) -> dict[str, Any]:
    logprobs = chat_logprobs(piece.logprobs) if piece.logprobs else None
    return {"delta": {"content": piece.text}, "logprobs": logprobs}


def _text_choices() -> Callable[[Piece], dict[str, Any]]:
    length = 0

    def choice(piece: Piece) -> dict[str, Any]:
        nonlocal length
        logprobs = completion_logprobs(piece.logprobs, length) if piece.logprobs else None
        length += len(piece.text)
        return {"text": piece.text, "logprobs": logprobs}

    return choice


def usage(generation: Generation) -> dict[str, Any]:
    """Return the number of tokens."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.generated_tokens,
        "total_tokens": generation.prompt_tokens + generation.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities in the shape of chat completions."""
    content = [_choice(token.chosen) | {"top_logprobs": [_choice(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return log-probabilities in the shape of completions; the text of the first token begins at `offset`."""
    lengths = [len(token.chosen.text) for token in tokens]
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [{one.text: one.logprob for one in token.top} for token in tokens],
        "text_offset": list(accumulate(lengths[:-1], initial=offset)) if tokens else [],
    }


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.text.encode())}
