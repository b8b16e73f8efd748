"""Interactions: recorded prompts and replies."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import documented
from service.api.fields import (
    CountedPage,
    Deleted,
    Id,
    JsonObject,
    PageQuery,
    Reply,
    TurnBody,
    VersionLabel,
    Words,
    next_page,
)

router = APIRouter(prefix="/interactions", tags=["interactions"])


class InteractionBody(Reply):
    """A prompt and its reply."""

    id: str
    created: datetime
    profile: str
    messages: list[TurnBody]
    parameters: JsonObject
    response: str = Field(description="The text of the reply, and behind it its calls of tools.")
    tool_calls: list[dict[str, Any]] = Field(description="Name and arguments of each call in the reply.")
    adapter_version: VersionLabel
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    seed: int | None
    conversation: str | None = Field(description="The client's id of it.")


class InteractionQuery(PageQuery):
    """Filter and page of a list of interactions."""

    conversation: Id | None = None
    q: Words | None = None


class InteractionPage(CountedPage):
    """Interactions, newest first."""

    interactions: list[InteractionBody]


@router.get("")
def list_interactions(query: Annotated[InteractionQuery, Query()], daemon: DaemonDep) -> InteractionPage:
    """List interactions, newest first."""
    filters = query.model_dump(exclude={"limit", "after"})
    records = daemon.db.interactions.list(query.limit, query.after, **filters)
    total = daemon.db.interactions.count(**filters)
    page = {"interactions": records, "next": next_page(records, query.limit), "total": total}
    return InteractionPage.model_validate(page)


@router.get("/{interaction_id}", responses=documented(404))
def get(interaction_id: Id, daemon: DaemonDep) -> InteractionBody:
    """Return one interaction."""
    return InteractionBody.model_validate(daemon.db.interactions.get(interaction_id))


@router.delete("/{interaction_id}", responses=documented(404, 503, 507))
def delete(interaction_id: Id, daemon: DaemonDep) -> Deleted:
    """Delete the interaction and the feedback on it, as `DELETE /feedback/{id}` does."""
    return deleted(daemon, daemon.db.erasures.interaction(interaction_id), deleted_interactions=True)
