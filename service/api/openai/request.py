"""Fields that chat completions and completions share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.names import AdapterName
from service.api.fields import STORABLE, Body, Number, RecallChoice, SamplingFields, Switch, Whole, is_one_of
from service.api.grammars import LogitBias, ResponseFormat
from service.api.model_names import ModelName

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
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
}
TEXT = {"type": "string", **STORABLE}
TEXT_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}


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
    logit_bias: LogitBias | None = Field(default=None, description="Token ids, and what is added to their logits.")
    response_format: ResponseFormat | None = Field(default=None, description="The form of the reply, always kept to.")
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

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        raise NotImplementedError

    def _sampling(self) -> dict[str, Any]:
        """Return the parameters of `generation_request` that both kinds of completion set."""
        shared = self.model_dump(include={*SamplingFields.model_fields, "top_p", "repetition_penalty"})
        return shared | {
            "max_new_tokens": self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "logit_bias": tuple((self.logit_bias or {}).items()),
            "grammar": self.response_format and self.response_format.grammar(),
            "stop": tuple(self.stop or ()),
            "seed": None if self.seed is None else self.seed % 2**63,
        }
