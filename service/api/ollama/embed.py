"""Ollama's embeddings: POST /api/embed, and the older /api/embeddings."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, ConfigDict, Field

from service.api.dependencies import DaemonDep
from service.api.embedding import Dimensions, Inputs, embed, require_dimensions
from service.api.errors import EVERYWHERE, OllamaErrorBody
from service.api.errors import documented as documented_errors
from service.api.fields import Body, JsonObject, Switch, Text
from service.api.model_names import ModelName
from service.api.ollama.request import DURATIONS, keep_alive_s

documented = partial(documented_errors, body=OllamaErrorBody)
router = APIRouter(prefix="/api", tags=["ollama"], responses=documented(*EVERYWHERE))

NANOSECONDS = 10**9


class _Embedding(Body):
    """Fields that both kinds of request share; others have no effect."""

    model_config = ConfigDict(extra="ignore")

    model: ModelName = None
    options: JsonObject | None = Field(default=None, description="Accepted without effect.")
    keep_alive: Annotated[float, BeforeValidator(keep_alive_s)] | None = Field(
        default=None,
        description="See /api/chat.",
        json_schema_extra={"anyOf": [{"type": "number"}, DURATIONS, {"type": "null"}]},
    )


class EmbedRequest(_Embedding):
    """Texts to embed."""

    input: Inputs
    truncate: Switch | None = Field(default=None, description="Leave the end of a text that is too long, unless false.")
    dimensions: Dimensions = None


class OldEmbedRequest(_Embedding):
    """One text to embed."""

    prompt: Text = ""


@router.post("/embed", response_model=None, responses=documented(404, 503, 504))
async def create(body: EmbedRequest, request: Request, daemon: DaemonDep) -> dict[str, Any]:
    """Return vectors that are near each other for texts of one meaning; nothing of it is kept or learned."""
    began = time.monotonic()
    texts = [] if body.input == [""] else body.input  # Ollama's clients load a model so
    truncate = body.truncate is not False
    found = await embed(daemon, request, body.model, texts, truncate=truncate, keep_alive_s=body.keep_alive)
    require_dimensions(body.dimensions, found)
    return {
        "model": body.model or "default",
        "embeddings": [one.numbers(body.dimensions).tolist() for one in found],
        "total_duration": int((time.monotonic() - began) * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": sum(one.tokens for one in found),
    }


@router.post("/embeddings", response_model=None, responses=documented(404, 503, 504))
async def create_one(body: OldEmbedRequest, request: Request, daemon: DaemonDep) -> dict[str, Any]:
    """Return the vector of one text, as older clients of Ollama ask for it."""
    texts = [body.prompt] if body.prompt else []
    found = await embed(daemon, request, body.model, texts, truncate=True, keep_alive_s=body.keep_alive)
    return {"embedding": found[0].numbers().tolist() if found else []}
