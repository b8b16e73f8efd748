"""Replies in Ollama's shape: POST /api/chat and POST /api/generate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BeforeValidator, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from lars_agent.example import Message, ToolCall
from lars_agent.runtime.request import Generation, Piece
from lars_agent.store.names import DEFAULT_PROFILE
from service.api.caller import owners_wish, require_owner
from service.api.dependencies import DaemonDep, Keeping, KeepingDep
from service.api.errors import EVERYWHERE, OllamaErrorBody, answers
from service.api.errors import documented as documented_errors
from service.api.fields import Switch, Text, Whole
from service.api.model_names import model_names
from service.api.ollama.models import iso
from service.api.ollama.request import OllamaRequest
from service.api.openai.chat import chat_logprobs
from service.api.streams import Exchange, encode_stream
from service.api.tools import ToolBody, Tools, ToolTurn, ollama_calls, to_messages, tool_use
from service.api.turns import MAX_MESSAGES, Nothing, asks
from service.daemon import Daemon

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

NDJSON = "application/x-ndjson"
LINES = answers("JSON lines, one per piece; with `stream: false` one object.", NDJSON)
NANOSECONDS = 10**9


OllamaTurns = Annotated[
    list[ToolTurn],
    BeforeValidator(lambda value: [] if value is None else value),
    Field(max_length=MAX_MESSAGES),
    AfterValidator(asks),
]


class OllamaChatRequest(OllamaRequest):
    """A conversation to reply to."""

    messages: OllamaTurns = Field(
        default=[], description="Without messages the model is loaded, or unloaded if `keep_alive` is 0."
    )
    tools: Tools | None = Field(default=None, description="Functions that the reply may call.")


class OllamaGenerateRequest(OllamaRequest):
    """A prompt to reply to, or (with `raw`) a text to continue."""

    prompt: Text = Field(default="", description="Without a prompt the model is loaded or unloaded.")
    system: Text | None = None
    raw: Switch | None = None
    context: list[Whole] | None = Field(default=None, description="Accepted without effect.")
    suffix: Nothing = None
    images: Nothing = None
    template: Nothing = None


@router.post("/chat", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def chat(body: OllamaChatRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""

    def content(text: str, calls: Sequence[ToolCall] = (), first: int = 0) -> dict[str, Any]:
        called = {"tool_calls": ollama_calls(calls, first)} if calls else {}
        return {"message": {"role": "assistant", "content": text, **called}}

    if not body.messages:
        return await _load(daemon, body, content(""))
    return await _answer(daemon, body, request, keeping, content, to_messages(body.messages), tools=body.tools)


@router.post("/generate", response_model=None, responses=LINES | documented(404, 409, 503, 504))
async def generate(body: OllamaGenerateRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a prompt."""
    if not body.prompt:
        return await _load(daemon, body, {"response": ""})
    system = [Message(role="system", content=body.system)] if body.system else []
    messages = (*system, Message(role="user", content=body.prompt))
    raw = body.prompt if body.raw else None
    return await _answer(daemon, body, request, keeping, lambda text, *_: {"response": text}, messages, raw)


async def _load(daemon: Daemon, body: OllamaRequest, content: dict[str, Any]) -> dict[str, Any]:
    """Load the model, or unload it if `keep_alive` is 0."""
    unloading = body.keep_alive == 0
    await run_in_threadpool(lambda: model_names(daemon).resolve(body.model))
    if unloading:
        require_owner("unload the model")
        daemon.model_host.unload()
    else:
        await run_in_threadpool(daemon.model_host.load, owners_wish(body.keep_alive))
    reason = "unload" if unloading else "load"
    return _line(body.model or DEFAULT_PROFILE, content) | {"done": True, "done_reason": reason}


async def _answer(
    daemon: Daemon,
    body: OllamaRequest,
    request: Request,
    keeping: Keeping,
    content: Callable[..., dict[str, Any]],
    messages: tuple[Message, ...],
    raw: str | None = None,
    tools: Sequence[ToolBody] | None = None,
) -> Any:
    parameters = {} if body.options is None else body.options.model_dump(exclude_none=True)
    if tools:
        parameters["tools"] = [tool.model_dump(exclude_none=True) for tool in tools]
    to_request = partial(body.to_request, messages=messages, raw=raw, tools=tool_use(tools))
    exchange = await Exchange.begin(daemon, body.model, to_request, parameters, keeping, body.keep_alive)
    model, called = exchange.replier, list[ToolCall]()

    def encode(item: Piece | Generation) -> list[dict[str, Any]]:
        if isinstance(item, Piece):
            line = _line(model, content(item.text, item.calls, len(called))) | {"done": False} | _logprobs(item)
            called.extend(item.calls)
            return [line]
        return [_line(model, content("")) | _statistics(exchange, item)]

    if body.stream is False:
        generation = await exchange.finished(request)
        message = content(generation.text, generation.calls)
        return _line(model, message) | _logprobs(generation) | _statistics(exchange, generation)
    lines = encode_stream(exchange, encode, error_event=lambda _, message: {"error": message})
    return StreamingResponse((line + "\n" async for line in lines), media_type=NDJSON)


def _line(model: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "created_at": iso(time.time()), **content}


def _logprobs(item: Piece | Generation) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(item.logprobs)["content"]} if item.logprobs else {}


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
