"""Ollama's dialect under `/api`: replies as JSON lines, and the list of models."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lars_agent.example import Message
from lars_agent.runtime.request import Generation, GenerationRequest, Piece
from lars_agent.store.names import DEFAULT_PROFILE, AdapterName
from service.api.dependencies import DaemonDep, Keeping, KeepingDep
from service.api.errors import EVERYWHERE, OllamaErrorBody, answers
from service.api.errors import documented as documented_errors
from service.api.fields import (
    MAX_MESSAGES,
    Body,
    Number,
    SamplingFields,
    Switch,
    Text,
    Turn,
    Whole,
    ends_with_user,
    to_messages,
)
from service.api.model_names import ModelName, model_names
from service.api.openai_models import ModelCard, cards, find_card
from service.api.streams import Exchange, encode_stream, generation_request
from service.daemon import Daemon
from service.process.version import package_version

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

NDJSON = "application/x-ndjson"
LINES = answers("JSON lines, one per piece; with `stream: false` one object.", NDJSON)
NANOSECONDS = 10**9
FOREVER = "2318-01-01T00:00:00Z"  # as Ollama writes it
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


class OllamaRequest(Body):
    """Fields that chat and generate share."""

    model: ModelName = None
    stream: Switch | None = Field(default=None, description="Stream JSON lines, unless false.")
    options: Options | None = None
    keep_alive: Annotated[float, BeforeValidator(keep_alive_s)] | None = Field(
        default=None,
        description="Time to keep the model loaded: seconds, or such as 5m; 0 unloads it now, -1 keeps it forever.",
        json_schema_extra={"anyOf": [{"type": "number"}, DURATIONS, {"type": "null"}]},
    )
    format: str | None = Field(default=None, max_length=0, description="Not supported.")
    think: Switch | None = Field(default=None, description="Accepted without effect.")

    def to_request(self, adapter: AdapterName, messages: tuple[Message, ...], raw: str | None) -> GenerationRequest:
        """Return the engine's request."""
        given = {} if self.options is None else self.options.model_dump(exclude_none=True)
        values = {**DEFAULTS, **given}
        limit, seed = values.pop("num_predict", 0), values.pop("seed", None)
        values["repetition_penalty"] = values.pop("repeat_penalty")
        values["top_p"] = max(values["top_p"], 1e-6)  # 0 is valid for Ollama
        values["stop"] = tuple(values.get("stop", ()))
        values["seed"] = None if seed is None or seed < 0 else seed
        values["max_new_tokens"] = UNLIMITED_TOKENS if limit < 0 else limit or None
        return generation_request(adapter, messages, raw=raw, **values)


class OllamaChatRequest(OllamaRequest):
    """A conversation to reply to."""

    messages: Annotated[list[Turn], Field(max_length=MAX_MESSAGES), AfterValidator(ends_with_user)] = Field(
        default=[], description="Without messages the model is loaded, or unloaded if `keep_alive` is 0."
    )
    tools: list[Any] | None = Field(default=None, max_length=0, description="Not supported.")


class OllamaGenerateRequest(OllamaRequest):
    """A prompt to reply to, or (with `raw`) a text to continue."""

    prompt: Text = Field(default="", description="Without a prompt the model is loaded or unloaded.")
    system: Text | None = None
    raw: Switch | None = None
    context: list[Whole] | None = Field(default=None, description="Accepted without effect.")
    suffix: str | None = Field(default=None, max_length=0)
    images: list[str] | None = Field(default=None, max_length=0)
    template: str | None = Field(default=None, max_length=0)


class ShowRequest(Body):
    """The model to describe."""

    model: ModelName = None
    name: ModelName = None
    verbose: Switch | None = None


@router.post("/chat", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def chat(body: OllamaChatRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""

    def content(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    if not body.messages:
        return await _load(daemon, body, content(""))
    return await _answer(daemon, body, request, keeping, content, to_messages(body.messages))


@router.post("/generate", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def generate(body: OllamaGenerateRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a prompt."""
    if not body.prompt:
        return await _load(daemon, body, {"response": ""})
    system = [Message(role="system", content=body.system)] if body.system else []
    messages = (*system, Message(role="user", content=body.prompt))
    raw = body.prompt if body.raw else None
    return await _answer(daemon, body, request, keeping, lambda text: {"response": text}, messages, raw)


@router.get("/tags", response_model=None, responses=documented(503))
def tags(daemon: DaemonDep) -> dict[str, Any]:
    """List the names that a request's `model` may have."""
    return {"models": [_entry(daemon, card) for card in cards(daemon)]}


@router.get("/ps", response_model=None, responses=documented(503))
def running(daemon: DaemonDep) -> dict[str, Any]:
    """List the loaded models: every profile, or nothing while the model is unloaded."""
    loaded = [] if daemon.model_host.is_asleep else [card for card in cards(daemon) if "@" not in card.id]
    unloads_at = daemon.model_host.unloads_at
    until = {"expires_at": FOREVER if math.isinf(unloads_at) else _iso(unloads_at), "size_vram": 0}
    return {"models": [_entry(daemon, card) | until for card in loaded]}


@router.post("/show", response_model=None, responses=documented(404, 503))
def show(body: ShowRequest, daemon: DaemonDep) -> dict[str, Any]:
    """Describe one model."""
    card = find_card(daemon, body.model or body.name)
    entry = _entry(daemon, card)
    return {
        "modelfile": f"FROM {card.parent or card.root}\n",
        "parameters": "",
        "template": "",
        "details": entry["details"],
        "model_info": {"general.architecture": entry["details"]["family"], "general.basename": card.root},
        "capabilities": ["completion"],
        "modified_at": entry["modified_at"],
    }


@router.get("/version", response_model=None)
def version() -> dict[str, str]:
    """Return the version of lars-agent."""
    return {"version": package_version()}


async def _load(daemon: Daemon, body: OllamaRequest, content: dict[str, Any]) -> dict[str, Any]:
    """Load the model, or unload it if `keep_alive` is 0."""
    unloading = body.keep_alive == 0
    await run_in_threadpool(lambda: model_names(daemon).resolve(body.model))
    if unloading:
        daemon.model_host.unload()
    else:
        await run_in_threadpool(daemon.model_host.load, body.keep_alive)
    reason = "unload" if unloading else "load"
    return _line(body.model or DEFAULT_PROFILE, content) | {"done": True, "done_reason": reason}


async def _answer(
    daemon: Daemon,
    body: OllamaRequest,
    request: Request,
    keeping: Keeping,
    content: Callable[[str], dict[str, Any]],
    messages: tuple[Message, ...],
    raw: str | None = None,
) -> Any:
    parameters = {} if body.options is None else body.options.model_dump(exclude_none=True)
    to_request = partial(body.to_request, messages=messages, raw=raw)
    exchange = await Exchange.begin(daemon, body.model, to_request, parameters, keeping, body.keep_alive)
    model = exchange.replier

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        if isinstance(item, Piece):
            return [_line(model, content(item.text)) | {"done": False}]
        return [_line(model, content("")) | _statistics(exchange, item)]

    if body.stream is False:
        generation = await exchange.finished(request)
        return _line(model, content(generation.text)) | _statistics(exchange, generation)
    lines = encode_stream(exchange, encode, error_event=lambda _, message: {"error": message})
    return StreamingResponse((line + "\n" async for line in lines), media_type=NDJSON)


def _line(model: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "created_at": _iso(time.time()), **content}


def _statistics(exchange: Exchange, generation: Generation) -> dict[str, Any]:
    """Return the fields of a finished reply; `interaction_id`, for feedback, is ours."""
    return {
        "done": True,
        "done_reason": "length" if generation.finish_reason == "length" else "stop",
        "total_duration": int((time.monotonic() - exchange.began) * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": generation.prompt_tokens,
        "prompt_eval_duration": int(generation.prompt_s * NANOSECONDS),
        "eval_count": generation.generated_tokens,
        "eval_duration": int(generation.reply_s * NANOSECONDS),
        "interaction_id": exchange.recorded_id,
    }


def _entry(daemon: Daemon, card: ModelCard) -> dict[str, Any]:
    installed = daemon.model_host.require_model()
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": _iso(card.created),
        "size": installed.bytes,
        "digest": installed.sha256,
        "details": {
            "parent_model": card.parent or "",
            "format": "safetensors",
            "family": installed.name,
            "families": [installed.name],
            "parameter_size": "",
            "quantization_level": daemon.settings.model.dtype,
        },
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
