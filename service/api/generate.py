"""Generation in the shape of TGI and LoRAX: POST /generate, and POST /generate_stream."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any, Literal

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
    TextOrMessages,
    VersionLabel,
    Whole,
    is_one_of,
    to_messages,
)
from service.api.grammars import TgiGrammar
from service.api.model_names import ModelName
from service.api.streams import MIN_TEMPERATURE, Exchange, encode_stream, event_stream, generation_request
from service.daemon import Daemon

router = APIRouter(tags=["generation"])

STREAM = answers(
    "Server-sent events; each `data` is a StreamEvent, or an ErrorBody if generation fails.", "text/event-stream"
)
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


def _not_a_number(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("must be false or null")
    return value


def _add_unsupported(schema: dict[str, Any]) -> None:
    schema["properties"] |= {name: {"enum": list(OFF), "description": "Not supported."} for name in sorted(TGI_ONLY)}


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
    details: Switch | None = Field(default=None, description="Accepted for TGI's clients; details are always sent.")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_off(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not (key in TGI_ONLY and is_one_of(value, OFF))}


class GenerateRequest(Body):
    """A prompt and how to reply to it."""

    inputs: TextOrMessages = Field(description="One user message, or a conversation that ends with the user's.")
    parameters: Annotated[
        Parameters, WithJsonSchema({"anyOf": [{"$ref": "#/components/schemas/Parameters"}, {"type": "null"}]})
    ] = Parameters()
    stream: Annotated[Literal[False], BeforeValidator(_not_a_number)] | None = Field(
        default=None, description="For a stream use POST /generate_stream."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        given = self.parameters
        shared = given.model_dump(include={"max_new_tokens", "top_p", "top_k", "repetition_penalty", "seed"})
        temperature = float(bool(given.do_sample)) if given.temperature is None else given.temperature
        shared |= {"temperature": 0.0 if given.do_sample is False else temperature, "stop": tuple(given.stop or ())}
        shared |= {"grammar": given.grammar and given.grammar.grammar()}
        return generation_request(adapter, to_messages(self.inputs), **shared)


class StreamRequest(GenerateRequest):
    """A prompt and how to reply to it, for a stream."""

    stream: Switch | None = Field(
        default=None, description="Accepted for TGI's clients; the answer is always a stream."
    )  # type: ignore[assignment]


class GenerationDetails(Reply):
    """Details of a reply."""

    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    adapter_version: VersionLabel
    seed: int
    recalled: list[RecalledBody] = Field(default=[], description="The corrections in the prompt, the best first.")


class GenerateReply(Reply):
    """A reply, and the id by which feedback refers to it."""

    generated_text: str
    interaction_id: str | None = Field(
        description="Null if the reply was not to be kept, or could not be, as the disk is full."
    )
    details: GenerationDetails


class StreamToken(Reply):
    """A piece of the reply: the text of one or more tokens."""

    text: str
    special: bool = False


class StreamEvent(Reply):
    """One event of a stream; the last one has the whole text."""

    index: int
    token: StreamToken
    generated_text: str | None = None
    interaction_id: str | None = None
    details: GenerationDetails | None = None


@router.post("/generate", responses=documented(404, 409, 503, 504))
async def generate(body: GenerateRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> GenerateReply:
    """Reply to `inputs`. The reply is recorded before it is sent, and cancelled if the client disconnects."""
    exchange = await _begin(daemon, body, keeping)
    return _reply(exchange, await exchange.finished(request))


@router.post("/generate_stream", response_model=StreamEvent, responses=STREAM | documented(404, 409, 503, 504))
async def generate_stream(body: StreamRequest, daemon: DaemonDep, keeping: KeepingDep) -> EventSourceResponse:
    """Stream the reply to `inputs`; the last event has the whole text, its id and the details."""
    exchange = await _begin(daemon, body, keeping)
    index = count()

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        whole = {} if isinstance(item, Piece) else dict(_reply(exchange, item))
        token = StreamToken(text="" if whole else item.text, special=bool(whole))
        return [StreamEvent(index=next(index), token=token, **whole).model_dump(mode="json")]

    return event_stream(encode_stream(exchange, encode))


async def _begin(daemon: Daemon, body: GenerateRequest, keeping: Keeping) -> Exchange:
    given = body.parameters
    parameters = given.model_dump(exclude_none=True)
    return await Exchange.begin(daemon, given.adapter_id, body.to_request, parameters, keeping, recall=given.recall)


def _reply(exchange: Exchange, generation: Generation) -> GenerateReply:
    details = GenerationDetails.model_validate({**vars(generation), "recalled": exchange.recalled})
    return GenerateReply.model_validate(
        {"generated_text": generation.text, "interaction_id": exchange.recorded_id, "details": details}
    )
