"""Fields that Ollama's chat and generate share."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue

from lars_agent.example import Message
from lars_agent.models.tools import ToolUse
from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.names import AdapterName
from service.api.fields import Body, Number, SamplingFields, Switch, Whole
from service.api.grammars import OllamaFormat, format_grammar
from service.api.model_names import ModelName
from service.api.openai.request import MAX_LOGPROBS
from service.api.streams import generation_request

UNLIMITED_TOKENS = 1_000_000
DEFAULTS: Mapping[str, float] = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1}  # Ollama's

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
PIECE = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"
DURATION = re.compile(rf"(-?)((?:{PIECE})+)", re.ASCII)
NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,9})?", re.ASCII)
MAX_DURATION_CHARS = 40
DURATIONS: dict[str, JsonValue] = {
    "type": "string",
    "pattern": f"^({NUMBER.pattern}|{DURATION.pattern})$".replace("\\d", "[0-9]"),
    "maxLength": MAX_DURATION_CHARS,
}


def keep_alive_s(value: Any) -> float:
    """Parse seconds or a duration in Go's format; a negative or very long one is infinite. Raises ValueError."""
    seconds = math.nan
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and NUMBER.fullmatch(value)):
        with contextlib.suppress(OverflowError):
            seconds = float(value)
    elif isinstance(value, str) and len(value) <= MAX_DURATION_CHARS and (match := DURATION.fullmatch(value)):
        seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(PIECE, match[2]))
        seconds = -seconds if match[1] else seconds
    if math.isnan(seconds):
        raise ValueError("not a duration; give seconds, or one such as 5m, 1h30m, 0 or -1")
    return seconds if 0 <= seconds < threading.TIMEOUT_MAX else math.inf


class Options(SamplingFields):
    """Generation parameters under Ollama's names; others are ignored, as most configure Ollama's own engine."""

    temperature: Number | None = Field(default=None, ge=0, le=100)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    repeat_penalty: Number | None = Field(default=None, ge=0.1, le=10)
    num_predict: Whole | None = Field(default=None, ge=-2, le=1_000_000, description="Below 0: without limit.")


class OllamaBody(Body):
    """A request body; fields that Ollama does not know are ignored, as by Ollama."""

    model_config = ConfigDict(extra="ignore")


class OllamaRequest(OllamaBody):
    """Fields that chat and generate share."""

    model: ModelName = None
    stream: Switch | None = Field(default=None, description="Stream JSON lines, unless false.")
    options: Options | None = None
    keep_alive: Annotated[float, BeforeValidator(keep_alive_s)] | None = Field(
        default=None,
        description="Time to keep the model loaded: seconds, or such as 5m; 0 unloads it now, -1 keeps it forever.",
        json_schema_extra={"anyOf": [{"type": "number"}, DURATIONS, {"type": "null"}]},
    )
    format: OllamaFormat | None = Field(default=None, description='The form of the reply: "json", or a schema.')
    think: Switch | Literal["low", "medium", "high", "max"] | None = Field(
        default=None, description="Accepted without effect: no thoughts are told apart from the reply."
    )

    logprobs: Switch | None = Field(default=None, description="Send the probabilities of the reply's tokens.")
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def to_request(
        self, adapter: AdapterName, messages: tuple[Message, ...], raw: str | None, tools: ToolUse | None = None
    ) -> GenerationRequest:
        """Return the engine's request."""
        given = {} if self.options is None else self.options.model_dump(exclude_none=True)
        values = {**DEFAULTS, **given}
        limit, seed = values.pop("num_predict", 0), values.pop("seed", None)
        values["repetition_penalty"] = values.pop("repeat_penalty")
        values["top_p"] = max(values["top_p"], 1e-6)  # 0 is valid for Ollama
        values["stop"] = tuple(values.get("stop", ()))
        values["seed"] = None if seed is None or seed < 0 else seed
        values["logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        values["max_new_tokens"] = UNLIMITED_TOKENS if limit < 0 else limit or None
        grammar = format_grammar(self.format)
        return generation_request(adapter, messages, raw=raw, tools=tools, grammar=grammar, **values)
