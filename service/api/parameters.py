"""What a generation request may say, in the shape of TGI and LoRAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.names import AdapterName
from service.api.fields import Body, Text, TextOrMessages, to_messages
from service.api.model_names import ModelName

DEFAULT_NEW_TOKENS = 256
LEAST_TEMPERATURE = 0.01  # below, logits divided by it overflow; 0 is greedy

# Parameters TGI's clients send whether they mean them or not: let pass while they are off, refused when they are on.
OFF: tuple[Any, ...] = (None, False, [], {})
TGI_ONLY = frozenset(
    {"best_of", "typical_p", "truncate", "watermark", "return_full_text", "decoder_input_details", "grammar"}
    | {"top_n_tokens", "frequency_penalty", "adapter_source", "adapter_parameters", "api_token", "merged_adapters"}
)


def _no_tiny(temperature: float) -> float:
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(f"must be 0 (greedy) or at least {LEAST_TEMPERATURE}")
    return temperature


class Parameters(Body):
    """How to generate; null is the default."""

    max_new_tokens: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Longest reply, tokens; the daemon's own limit holds too."
    )
    temperature: Annotated[float, Field(ge=0, le=100), AfterValidator(_no_tiny)] | None = Field(
        default=None, description="0, the default, is greedy."
    )
    do_sample: bool | None = Field(default=None, description="false: greedy; true: temperature 1 where none is given.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus; 1 is off.")
    top_k: int | None = Field(default=None, ge=0, le=2**31, description="Likeliest tokens to choose from; 0 is off.")
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10, description="1 is off.")
    stop: list[Annotated[Text, Field(min_length=1, max_length=1000)]] | None = Field(
        default=None, max_length=16, description="Texts that end the reply; they are not part of it."
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Of the sampling; drawn where none is given.")
    adapter_id: ModelName = None
    details: bool | None = Field(default=None, description="Accepted for TGI's clients; details always come.")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_off(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if not (key in TGI_ONLY and value in OFF)}

    def effective_temperature(self) -> float:
        """0 for greedy."""
        if self.do_sample is False:
            return 0.0
        return self.temperature if self.temperature is not None else float(bool(self.do_sample))


class GenerateRequest(Body):
    """A prompt and how to reply to it."""

    inputs: TextOrMessages = Field(description="One user message, or a conversation that ends with the user's.")
    parameters: Parameters = Parameters()
    stream: Literal[False] | None = Field(default=None, description="For a stream ask POST /generate_stream.")

    @field_validator("parameters", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """What the engine is asked."""
        given = self.parameters
        return GenerationRequest(
            messages=to_messages(self.inputs),
            profile=adapter.profile,
            version=adapter.version,
            max_new_tokens=given.max_new_tokens or DEFAULT_NEW_TOKENS,
            temperature=given.effective_temperature(),
            top_p=1.0 if given.top_p is None else given.top_p,
            top_k=given.top_k or 0,
            repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
            stop=tuple(given.stop or ()),
            seed=given.seed,
        )


class StreamRequest(GenerateRequest):
    """The same, for an answer in pieces."""

    stream: bool | None = Field(default=None, description="Accepted for TGI's clients; the answer is a stream anyway.")  # type: ignore[assignment]
