"""Fields that chat completions and completions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.names import AdapterName
from service.api.choices import Choice
from service.api.fields import STORABLE, Body, Number, RecallChoice, SamplingFields, Switch, Whole, is_one_of
from service.api.grammars import LogitBias, ResponseFormat
from service.api.model_names import ModelName
from service.api.turns import without_empty
from service.api.unsupported import describe_unsupported

MAX_LOGPROBS = 20
# Fields that clients send and that have no effect here.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
    | {"parallel_tool_calls", "reasoning_effort", "verbosity", "prediction"}
)
# Unsupported fields: accepted with one of these values, which turn them off, refused with any other.
OFF: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
}
UNLIMITED_TOKENS = 1_000_000
MAX_CHOICES = 128
TEXT = {"type": "string", **STORABLE}
TEXT_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}


NEEDED = frozenset({"messages", "prompt"})
MaxTokens = Annotated[
    Whole | None,
    Field(
        ge=-1, le=UNLIMITED_TOKENS, description="-1: up to the daemon's own limit; 0: nothing but the prompt is read."
    ),
]


class StreamOptions(Body):
    """Options of a stream; others are ignored."""

    model_config = ConfigDict(extra="ignore")

    include_usage: Switch | None = Field(default=None, description="Send the number of tokens in a last chunk.")
    include_obfuscation: Switch | None = Field(default=None, description="Accepted without effect.")


def _add_unsupported(schema: dict[str, Any]) -> None:
    """Describe the fields of OpenAI's that are accepted without effect, or with the value that turns them off.

    Fields that are not described are ignored.
    """
    schema.pop("additionalProperties")
    describe_unsupported(schema, WITHOUT_EFFECT, OFF)


class OpenAIRequest(SamplingFields, Body):
    """Fields that chat completions and completions share; others, and those that are null or empty, are ignored."""

    model_config = ConfigDict(json_schema_extra=_add_unsupported)

    model: ModelName = None
    temperature: Number | None = Field(default=None, ge=0, le=2, description="0 is greedy; 1 by default.")
    top_p: Number | None = Field(default=None, gt=0, le=1)
    repetition_penalty: Number | None = Field(default=None, ge=0.1, le=10)
    max_tokens: MaxTokens = None
    n: Whole | None = Field(
        default=None, ge=1, le=MAX_CHOICES, description="Replies to each prompt, as choices of one answer."
    )
    recall: RecallChoice = None
    store: Switch | None = Field(default=None, description="false: answered, but neither kept nor learned from.")
    logit_bias: LogitBias | None = Field(default=None, description="Token ids, and what is added to their logits.")
    response_format: ResponseFormat | None = Field(default=None, description="The form of the reply, always kept to.")
    stream: Switch | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = set(cls.model_fields)
        return {
            key: value
            for key, value in without_empty(values, NEEDED).items()
            if key in own or (key in OFF and not is_one_of(value, OFF[key]))
        }

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def of_each(self) -> int:
        """Number of replies that are generated for each prompt."""
        return self.n or 1

    @property
    def candidates(self) -> int:
        """Number of replies that are generated in all."""
        return self.of_each

    def best(self, candidates: Sequence[Choice]) -> Sequence[Choice]:
        """Return those of the replies that are given."""
        return candidates

    def to_request(self, adapter: AdapterName, number: int = 0) -> GenerationRequest:
        """Return the engine's request for the reply `number` of `candidates`."""
        raise NotImplementedError

    def _sampling(self, number: int) -> dict[str, Any]:
        """Return the parameters of `generation_request` that both kinds of completion set.

        The replies to a prompt have seeds of their own, the first one that of the request.
        """
        shared = self.model_dump(include={*SamplingFields.model_fields, "top_p", "repetition_penalty"})
        return shared | {
            "max_new_tokens": UNLIMITED_TOKENS if self.max_tokens == -1 else self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "logit_bias": tuple((self.logit_bias or {}).items()),
            "grammar": self.response_format and self.response_format.grammar(),
            "stop": tuple(self.stop or ()),
            "seed": None if self.seed is None else (self.seed + number % self.of_each) % 2**63,
        }
