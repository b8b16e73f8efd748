"""Embeddings in every dialect: texts or token ids, by the base model, of which nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Request
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from lars_agent.runtime.embedded import Embedded, Input
from service.api.caller import owners_wish
from service.api.errors import InvalidField
from service.api.fields import STORABLE, Text, Whole
from service.api.model_names import model_names
from service.daemon import Daemon

MOST_INPUTS = 2048
MOST_TOKENS = 1_000_000
AT_ONCE = 16  # texts, before the client is asked whether it is still there

_TEXT: dict[str, Any] = {"type": "string", **STORABLE}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MOST_TOKENS}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _as_inputs(value: Any) -> Any:
    """Return a list of texts and lists of token ids, of which a request may give one alone."""
    if isinstance(value, str) or (value and _is_ids(value)):
        return [value]
    if not isinstance(value, list):
        raise ValueError("must be a text, a list of texts, or lists of token ids")
    for index, one in enumerate(value):
        if not isinstance(one, str) and not _is_ids(one):
            raise ValueError(f"must be texts or lists of token ids; number {index} is neither")
    return value


Inputs = Annotated[
    list[Text | Annotated[list[Whole], Field(max_length=MOST_TOKENS)]],
    BeforeValidator(_as_inputs),
    Field(min_length=1, max_length=MOST_INPUTS, description="A text, token ids, or several of either."),
    WithJsonSchema(
        {"anyOf": [_TEXT, _IDS, *({"type": "array", "items": one, "maxItems": MOST_INPUTS} for one in (_TEXT, _IDS))]}
    ),
]
Dimensions = Annotated[
    Whole | None, Field(ge=1, description="Only the first so many numbers, with norm 1 again; the others are lost.")
]


async def embed(
    daemon: Daemon,
    request: Request,
    model: str | None,
    inputs: Sequence[Input],
    *,
    truncate: bool = False,
    keep_alive_s: float | None = None,
) -> list[Embedded]:
    """Return the inputs' embeddings; every name of `model` stands for the base model. Raises as `Embedder.embed`."""
    await run_in_threadpool(lambda: model_names(daemon).resolve(model))
    found: list[Embedded] = []
    for start in range(0, len(inputs), AT_ONCE):
        if await request.is_disconnected():
            raise ClientDisconnect
        some = inputs[start : start + AT_ONCE]
        found += await run_in_threadpool(daemon.model_host.embed, some, truncate, owners_wish(keep_alive_s))
    return found


def require_dimensions(dimensions: int | None, found: Sequence[Embedded]) -> None:
    """Raise InvalidField for more numbers than the model has."""
    size = len(found[0].numbers()) if found else 0
    if dimensions is not None and found and dimensions > size:
        raise InvalidField("dimensions", f"the base model's vectors have {size} numbers; ask for at most that many")
