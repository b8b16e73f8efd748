"""What OpenAI's clients send to `/v1`, and what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lars_agent.example import Message
from lars_agent.runtime.request import FinishReason, Generation, GenerationRequest, TokenChoice, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.fields import MAX_MESSAGES, Body, Stops, Text, Turn, _user_has_the_last_word, listed, to_messages
from service.api.model_names import ModelName
from service.api.parameters import DEFAULT_NEW_TOKENS

MOST_LOGPROBS = 20
LEAST_TEMPERATURE = 0.01
# What clients send that changes nothing here.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
    | {"parallel_tool_calls", "reasoning_effort", "verbosity", "prediction"}
)
# What would change the reply if it were on: let pass while it is off.
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
REASONS: Mapping[FinishReason, Literal["stop", "length"]] = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}


def _text_of_parts(value: Any) -> Any:
    """One text of several parts; what is no text is left for the field to refuse."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        return "".join(str(part.get("text", "")) for part in value)
    return "" if value is None else value


def _role(value: Any) -> Any:
    return "system" if value == "developer" else value


class OpenAITurn(Turn):
    """A message; its content may be given in parts of text."""

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_role)]
    content: Annotated[Text, BeforeValidator(_text_of_parts)]
    name: str | None = Field(default=None, max_length=100, description="Accepted; nothing comes of it.")


class StreamOptions(Body):
    """What a stream has beside the reply."""

    include_usage: bool | None = Field(default=None, description="A last chunk says how many tokens there were.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted; nothing comes of it.")


class OpenAIRequest(Body):
    """What both kinds of completion take."""

    model: ModelName = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy; 1 where none is given.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    stop: Stops | None = Field(default=None, max_length=16)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {
            key: value
            for key, value in values.items()
            if key not in WITHOUT_EFFECT and not (key in OFF and value in OFF[key])
        }

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with how many tokens there were."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _common(self, adapter: AdapterName, longest: int | None = None) -> dict[str, Any]:
        temperature = 1.0 if self.temperature is None else self.temperature
        return {
            "profile": adapter.profile,
            "version": adapter.version,
            "max_new_tokens": longest or self.max_tokens or DEFAULT_NEW_TOKENS,
            "temperature": temperature if temperature >= LEAST_TEMPERATURE else 0.0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": self.top_k or 0,
            "min_p": self.min_p or 0.0,
            "repetition_penalty": 1.0 if self.repetition_penalty is None else self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "stop": tuple(self.stop or ()),
            "seed": None if self.seed is None else self.seed % 2**63,
        }


class ChatRequest(OpenAIRequest):
    """A conversation to reply to."""

    messages: Annotated[
        list[OpenAITurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(_user_has_the_last_word)
    ]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """What the engine is asked."""
        told = (self.top_logprobs or 0) if self.logprobs else None
        return GenerationRequest(
            to_messages(list(self.messages)), logprobs=told, **self._common(adapter, self.max_completion_tokens)
        )


class CompletionRequest(OpenAIRequest):
    """A text to go on with, without a chat template."""

    prompt: Annotated[list[Text], BeforeValidator(listed), Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """What the engine is asked."""
        said = Message(role="user", content=self.prompt[0])
        return GenerationRequest((said,), raw=self.prompt[0], logprobs=self.logprobs, **self._common(adapter))


class OpenAIReply(BaseModel):
    """A body of OpenAI's shape, which may hold more than is written here."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(
        description="Feedback refers to the reply by it, unless the disk was full: it is the interaction_id."
    )
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]


def usage(generation: Generation) -> dict[str, Any]:
    """How many tokens there were."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.generated_tokens,
        "total_tokens": generation.prompt_tokens + generation.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Probabilities as chat completions have them."""
    listed = [_choice(token.chosen) | {"top_logprobs": [_choice(one) for one in token.top]} for token in tokens]
    return {"content": listed, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Probabilities as completions have them; `offset` is where the tokens' text begins."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.chosen.text)
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [{one.text: one.logprob for one in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.text.encode())}
