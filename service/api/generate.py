"""Generation in the shape of TGI and LoRAX: POST /generate, its alias POST /, and POST /generate_stream."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from sse_starlette import EventSourceResponse

from lars_agent.runtime.request import FinishReason, Generation, GenerationRequest, Piece
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, Keeping, KeepingDep
from service.api.errors import answers, documented
from service.api.fields import (
    Body,
    Number,
    RecallChoice,
    RecalledBody,
    Reply,
    StopText,
    Switch,
    VersionLabel,
    Whole,
    is_one_of,
)
from service.api.grammars import TgiGrammar
from service.api.model_names import ModelName
from service.api.streams import MIN_TEMPERATURE, Exchange, encode_stream, event_stream, generation_request
from service.api.token_texts import TokenBody, TokenTexts, tokens_of
from service.api.turns import TextOrConversation, to_messages
from service.api.unsupported import describe_unsupported
from service.daemon import Daemon

router = APIRouter(tags=["generation"])

STREAM = answers(
    "Server-sent events; each `data` is a StreamEvent, or an ErrorBody if generation fails.", "text/event-stream"
)
EITHER = answers("The reply; with `stream: true` events as of POST /generate_stream.", "text/event-stream")
# Parameters of TGI without effect here: accepted with a value that turns them off, refused with any other.
OFF: tuple[Any, ...] = (None, False, [], {})
TGI_ONLY = frozenset(
    {"best_of", "typical_p", "truncate", "watermark", "return_full_text", "decoder_input_details"}
    | {"top_n_tokens", "frequency_penalty", "adapter_source", "adapter_parameters", "api_token", "merged_adapters"}
)


def _not_tiny(temperature: float) -> float:
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(f"must be 0 (greedy) or at least {MIN_TEMPERATURE}")
    return temperature


def is_off(name: str, value: Any) -> bool:
    """Return whether a parameter without effect here has a value that turns it off."""
    return is_one_of(value, OFF) or (name == "best_of" and is_one_of(value, (1,)))


def _add_unsupported(schema: dict[str, Any]) -> None:
    describe_unsupported(schema, (), dict.fromkeys(sorted(TGI_ONLY), OFF))


Temperature = Annotated[
    Number,
    Field(ge=0, le=100),
    AfterValidator(_not_tiny),
    WithJsonSchema({"anyOf": [{"const": 0}, {"type": "number", "minimum": MIN_TEMPERATURE, "maximum": 100}]}),
]


class Parameters(Body):
    """Generation parameters; null is the default."""

    model_config = ConfigDict(json_schema_extra=_add_unsupported)

    max_new_tokens: Whole | None = Field(
        default=None, ge=1, le=1_000_000, description="Longest reply, tokens; the daemon's own limit applies, too."
    )
    temperature: Temperature | None = Field(default=None, description="0, the default, is greedy.")
    do_sample: Switch | None = Field(default=None, description="false: greedy; true: temperature 1 by default.")
    top_p: Number | None = Field(default=None, gt=0, le=1, description="Nucleus; 1 is off.")
    top_k: Whole | None = Field(default=None, ge=0, le=2**31, description="Most probable tokens to sample; 0 is off.")
    repetition_penalty: Number | None = Field(default=None, ge=0.1, le=10, description="1 is off.")
    stop: list[StopText] | None = Field(
        default=None, max_length=16, description="Texts that end the reply; they are not part of it."
    )
    seed: Whole | None = Field(default=None, ge=0, lt=2**63, description="Seed of the sampling; random by default.")
    grammar: Annotated[TgiGrammar | None, BeforeValidator(lambda value: None if is_one_of(value, OFF) else value)] = (
        Field(default=None, description="The form of the reply, always kept to.")
    )
    adapter_id: ModelName = None
    recall: RecallChoice = None
    details: Switch | None = Field(
        default=None, description="List the reply's tokens in the details, which are always sent."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_off(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not (key in TGI_ONLY and is_off(key, value))}


class GenerateRequest(Body):
    """A prompt and how to reply to it."""

    inputs: TextOrConversation = Field(description="One user message, or a conversation.")
    parameters: Annotated[
        Parameters, WithJsonSchema({"anyOf": [{"$ref": "#/components/schemas/Parameters"}, {"type": "null"}]})
    ] = Parameters()
    stream: Switch | None = Field(
        default=None, description="Stream the reply, as POST /generate_stream does in any case."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    def to_request(self, adapter: AdapterName, with_tokens: bool = False) -> GenerationRequest:
        """Return the engine's request; `with_tokens` asks for the ids and probabilities of the reply's tokens."""
        given = self.parameters
        shared = given.model_dump(include={"max_new_tokens", "top_p", "top_k", "repetition_penalty", "seed"})
        temperature = float(bool(given.do_sample)) if given.temperature is None else given.temperature
        shared |= {"temperature": 0.0 if given.do_sample is False else temperature, "stop": tuple(given.stop or ())}
        shared |= {"logprobs": 0 if with_tokens else None, "grammar": given.grammar and given.grammar.grammar()}
        return generation_request(adapter, to_messages(self.inputs), **shared)


class GenerationDetails(Reply):
    """Details of a reply."""

    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    adapter_version: VersionLabel
    seed: int
    recalled: list[RecalledBody] = Field(default=[], description="The corrections in the prompt, the best first.")


class StreamDetails(GenerationDetails):
    """Details of a streamed reply."""

    input_length: int = Field(description="The same as `prompt_tokens`, as TGI calls it.")


class TokenDetails(StreamDetails):
    """Details of a reply with its tokens, for `details: true`."""

    prefill: list[TokenBody] = Field(default=[], description="Empty: the prompt's tokens are not listed.")
    tokens: list[TokenBody]


class GenerateReply(Reply):
    """A reply, and the id by which feedback refers to it."""

    generated_text: str
    interaction_id: str | None = Field(
        description="Null if the reply was not to be kept, or could not be, as the disk is full."
    )
    details: TokenDetails | GenerationDetails


class StreamEvent(Reply):
    """One event of a stream, for one token; the last one has the whole text."""

    index: int
    token: TokenBody
    generated_text: str | None = None
    interaction_id: str | None = None
    details: StreamDetails | None = None


@router.post("/generate", response_model=GenerateReply, responses=EITHER | documented(404, 409, 503, 504))
async def generate(body: GenerateRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to `inputs`. The reply is recorded before it is sent, and cancelled if the client disconnects."""
    return await (_streamed(body, daemon, keeping) if body.stream else _whole(body, request, daemon, keeping))


@router.post("/", response_model=list[GenerateReply], responses=EITHER | documented(404, 409, 503, 504))
async def generate_at_root(body: GenerateRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply as /generate does, in a list of one, as TGI's clients have it."""
    return await _streamed(body, daemon, keeping) if body.stream else [await _whole(body, request, daemon, keeping)]


@router.post("/generate_stream", response_model=StreamEvent, responses=STREAM | documented(404, 409, 503, 504))
async def generate_stream(body: GenerateRequest, daemon: DaemonDep, keeping: KeepingDep) -> EventSourceResponse:
    """Stream the reply to `inputs`; the last event has the whole text, its id and the details."""
    return await _streamed(body, daemon, keeping)


async def _whole(body: GenerateRequest, request: Request, daemon: Daemon, keeping: Keeping) -> GenerateReply:
    with_tokens = bool(body.parameters.details)
    exchange = await _begin(daemon, body, keeping, with_tokens)
    generation = await exchange.finished(request)
    details = _details(exchange, generation)
    if with_tokens:
        details |= {"tokens": tokens_of(exchange.ticket, generation)}
    return GenerateReply.model_validate(_reply(exchange, generation) | {"details": details})


async def _streamed(body: GenerateRequest, daemon: Daemon, keeping: Keeping) -> EventSourceResponse:
    exchange, index, tokens = await _begin(daemon, body, keeping, with_tokens=True), count(), TokenTexts()

    def event(token: TokenBody, **whole: Any) -> dict[str, Any]:
        return StreamEvent(index=next(index), token=token, **whole).model_dump(mode="json")

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        if isinstance(item, Piece):
            return [event(token) for token in tokens.of(item)]
        return [event(tokens.last(item), **_reply(exchange, item), details=_details(exchange, item))]

    return event_stream(encode_stream(exchange, encode))


async def _begin(daemon: Daemon, body: GenerateRequest, keeping: Keeping, with_tokens: bool) -> Exchange:
    given = body.parameters
    parameters = given.model_dump(exclude_none=True)
    to_request = partial(body.to_request, with_tokens=with_tokens)
    return await Exchange.begin(daemon, given.adapter_id, to_request, parameters, keeping, recall=given.recall)


def _reply(exchange: Exchange, generation: Generation) -> dict[str, Any]:
    return {"generated_text": generation.text, "interaction_id": exchange.recorded_id}


def _details(exchange: Exchange, generation: Generation) -> dict[str, Any]:
    return {**vars(generation), "recalled": exchange.recalled_bodies, "input_length": generation.prompt_tokens}
