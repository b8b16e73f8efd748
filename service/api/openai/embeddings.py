"""OpenAI's embeddings: POST /v1/embeddings."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from lars_agent.runtime.embedded import encoded
from lars_agent.store.names import BASE
from service.api.dependencies import DaemonDep
from service.api.embedding import Dimensions, Inputs, embed, require_dimensions
from service.api.errors import documented
from service.api.fields import Body, Reply
from service.api.model_names import ModelName

router = APIRouter(prefix="/v1", tags=["openai"])


class EmbeddingsRequest(Body):
    """Texts to embed. Fields that are not named here have no effect."""

    model_config = ConfigDict(extra="ignore")

    input: Inputs
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64: little-endian float32."
    )
    dimensions: Dimensions = None


class EmbeddingBody(Reply):
    """A text's vector, of norm 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    """Number of tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Reply):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingBody]
    model: str = Field(description="The base model, whichever name was asked for.")
    usage: EmbeddingUsage


@router.post("/embeddings", responses=documented(404, 503, 504))
async def create(body: EmbeddingsRequest, request: Request, daemon: DaemonDep) -> EmbeddingList:
    """Return vectors that are near each other for texts of one meaning; nothing of it is kept or learned."""
    found = await embed(daemon, request, body.model, body.input)
    require_dimensions(body.dimensions, found)
    vectors = [one.numbers(body.dimensions) for one in found]
    in_base64 = body.encoding_format == "base64"
    data: list[Any] = [
        EmbeddingBody(index=index, embedding=encoded(vector) if in_base64 else vector.tolist())
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(one.tokens for one in found)
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingList(data=data, model=BASE, usage=usage)
