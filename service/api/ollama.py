"""Ollama's dialect under `/api`: replies as lines of JSON, and what there is to choose from."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lars_agent.errors import LarsError
from lars_agent.example import Message
from lars_agent.runtime.request import Generation, GenerationRequest
from lars_agent.store.names import DEFAULT_PROFILE, AdapterName
from service.api.dependencies import DaemonDep
from service.api.durations import keep_alive_s
from service.api.errors import UNEXPECTED, ascii_json, documented
from service.api.fields import MAX_MESSAGES, Body, Stops, Text, Turn, _user_has_the_last_word, to_messages
from service.api.model_names import ModelName, model_names
from service.api.openai_models import ModelCard, cards, find_card
from service.api.parameters import DEFAULT_NEW_TOKENS
from service.api.streams import Exchange
from service.daemon import Daemon
from service.process.version import package_version

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/api", tags=["ollama"])

NDJSON = "application/x-ndjson"
LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One line of JSON for each piece; with `stream: false` a single object.",
        "content": {NDJSON: {}},
    }
}
NANOSECONDS = 10**9
FOREVER = "2318-01-01T00:00:00Z"  # as far off as Ollama's own
TEMPERATURE = 0.8  # Ollama's own, where none is given


def _no_model_has_the_last_word(turns: list[Turn]) -> list[Turn]:
    return _user_has_the_last_word(turns) if turns else turns


class Options(BaseModel):
    """How to generate, by Ollama's names. Others are let pass, as Ollama does: most speak of its own machinery."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, ge=0.1, le=10)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    num_predict: int | None = Field(default=None, ge=-2, le=1_000_000, description="Below 0: as long as it goes.")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops | None = Field(default=None, max_length=16)


class OllamaRequest(Body):
    """What both kinds of reply take."""

    model: ModelName = None
    stream: bool | None = Field(default=None, description="Lines as they come, unless false.")
    options: Options | None = None
    keep_alive: Annotated[float, BeforeValidator(keep_alive_s)] | None = Field(
        default=None,
        description="How long the model stays after this: seconds, or as 5m; 0 unloads it at once, -1 is for good.",
        json_schema_extra={"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]},
    )
    format: str | None = Field(default=None, max_length=0, description="No form can be asked for.")
    think: bool | None = Field(default=None, description="Accepted; nothing comes of it.")

    def to_request(self, adapter: AdapterName, **said: Any) -> GenerationRequest:
        """What the engine is asked."""
        how = self.options or Options()
        temperature = TEMPERATURE if how.temperature is None else how.temperature
        longest = how.num_predict
        return GenerationRequest(
            profile=adapter.profile,
            version=adapter.version,
            max_new_tokens=DEFAULT_NEW_TOKENS if not longest else longest if longest > 0 else 1_000_000,
            temperature=temperature if temperature >= 0.01 else 0.0,
            top_p=how.top_p or (0.9 if how.top_p is None else 1e-6),
            top_k=40 if how.top_k is None else how.top_k,
            min_p=how.min_p or 0.0,
            repetition_penalty=1.1 if how.repeat_penalty is None else how.repeat_penalty,
            frequency_penalty=how.frequency_penalty or 0.0,
            presence_penalty=how.presence_penalty or 0.0,
            stop=tuple(how.stop or ()),
            seed=None if how.seed is None or how.seed < 0 else how.seed,
            **said,
        )


class ChatRequest(OllamaRequest):
    """A conversation to reply to."""

    messages: Annotated[list[Turn], Field(max_length=MAX_MESSAGES), AfterValidator(_no_model_has_the_last_word)] = (
        Field(default=[], description="None: the model is loaded, or unloaded where `keep_alive` is 0.")
    )
    tools: list[Any] | None = Field(default=None, max_length=0, description="No tool can be called.")


class GenerateRequest(OllamaRequest):
    """A prompt to reply to, or (with `raw`) a text to go on with."""

    prompt: Text = Field(default="", description="None: as `messages` of a chat.")
    system: Text | None = None
    raw: bool | None = None
    context: list[int] | None = Field(default=None, description="Accepted; nothing comes of it.")
    suffix: str | None = Field(default=None, max_length=0)
    images: list[str] | None = Field(default=None, max_length=0)
    template: str | None = Field(default=None, max_length=0)


class Named(Body):
    """What `/api/show` is asked about."""

    model: ModelName = None
    name: ModelName = None
    verbose: bool | None = None


@router.post("/chat", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def chat(body: ChatRequest, request: Request, daemon: DaemonDep) -> Any:
    """The reply to a conversation."""
    if not body.messages:
        return await _loaded(daemon, body, {"message": {"role": "assistant", "content": ""}})
    exchange = await _begin(daemon, body, messages=to_messages(body.messages))
    return await _answer(exchange, body, request, lambda text: {"message": {"role": "assistant", "content": text}})


@router.post("/generate", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def generate(body: GenerateRequest, request: Request, daemon: DaemonDep) -> Any:
    """The reply to a prompt."""
    if not body.prompt:
        return await _loaded(daemon, body, {"response": ""})
    said = [Message(role="system", content=body.system)] if body.system else []
    messages = (*said, Message(role="user", content=body.prompt))
    exchange = await _begin(daemon, body, messages=messages, raw=body.prompt if body.raw else None)
    return await _answer(exchange, body, request, lambda text: {"response": text})


@router.get("/tags", response_model=None, responses=documented(503))
def tags(daemon: DaemonDep) -> dict[str, Any]:
    """What a request's `model` may name."""
    return {"models": [_entry(daemon, card) for card in cards(daemon)]}


@router.get("/ps", response_model=None, responses=documented(503))
def running(daemon: DaemonDep) -> dict[str, Any]:
    """What is loaded: every profile, or nothing while the model is unloaded."""
    listed = [] if daemon.serving.is_asleep else [card for card in cards(daemon) if "@" not in card.id]
    unloads_at = daemon.serving.unloads_at
    until = {"expires_at": FOREVER if math.isinf(unloads_at) else _when(unloads_at), "size_vram": 0}
    return {"models": [_entry(daemon, card) | until for card in listed]}


@router.post("/show", response_model=None, responses=documented(404, 503))
def show(body: Named, daemon: DaemonDep) -> dict[str, Any]:
    """One of them."""
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
    """Of lars-agent."""
    return {"version": package_version()}


async def _begin(daemon: Daemon, body: OllamaRequest, **said: Any) -> Exchange:
    parameters = {} if body.options is None else body.options.model_dump(exclude_none=True)
    return await Exchange.begin(daemon, body.model, partial(body.to_request, **said), parameters, body.keep_alive)


async def _loaded(daemon: Daemon, body: OllamaRequest, said: dict[str, Any]) -> dict[str, Any]:
    """Nothing is asked: the model is loaded, or unloaded."""
    unloading = body.keep_alive == 0
    await run_in_threadpool(lambda: model_names(daemon).resolve(body.model))
    if unloading:
        daemon.serving.unload()
    else:
        await run_in_threadpool(daemon.serving.load, body.keep_alive)
    return _line(body.model or DEFAULT_PROFILE, said) | {"done": True, "done_reason": "unload" if unloading else "load"}


async def _answer(
    exchange: Exchange, body: OllamaRequest, request: Request, said: Callable[[str], dict[str, Any]]
) -> Any:
    began = time.monotonic()
    if body.stream is False:
        generation = await exchange.finished(request)
        return _line(exchange.replier, said(generation.text)) | _done(exchange, generation, began)
    return StreamingResponse(_lines(exchange, said, began), media_type=NDJSON)


async def _lines(exchange: Exchange, said: Callable[[str], dict[str, Any]], began: float) -> AsyncIterator[str]:
    model = exchange.replier
    try:
        async for piece in exchange.pieces():
            yield ascii_json(_line(model, said(piece.text)) | {"done": False}) + "\n"
        yield ascii_json(_line(model, said("")) | _done(exchange, exchange.ticket.result(), began)) + "\n"
    except LarsError as error:
        yield ascii_json({"error": str(error)}) + "\n"
    except Exception:
        log.exception("stream_broke_off")
        yield ascii_json({"error": UNEXPECTED}) + "\n"


def _line(model: str, said: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "created_at": _when(time.time()), **said}


def _done(exchange: Exchange, generation: Generation, began: float) -> dict[str, Any]:
    """The last line; `interaction_id` is ours: feedback refers to the reply by it."""
    return {
        "done": True,
        "done_reason": "length" if generation.finish_reason == "length" else "stop",
        "total_duration": int((time.monotonic() - began) * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": generation.prompt_tokens,
        "prompt_eval_duration": int(generation.prompt_s * NANOSECONDS),
        "eval_count": generation.generated_tokens,
        "eval_duration": int(generation.reply_s * NANOSECONDS),
        "interaction_id": exchange.recorded_id,
    }


def _entry(daemon: Daemon, card: ModelCard) -> dict[str, Any]:
    installed = daemon.serving.require_model()
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": _when(card.created),
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


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
