"""Prompts and the replies they got."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import DaemonDep
from service.api.errors import documented
from service.api.fields import Id
from service.api.queries import PageQuery
from service.api.schemas import Deleted, InteractionBody, InteractionPage

router = APIRouter(prefix="/interactions", tags=["interactions"])


@router.get("")
def list_interactions(query: Annotated[PageQuery, Query()], daemon: DaemonDep) -> InteractionPage:
    """The latest interactions, newest first."""
    records = daemon.db.interactions.list(query.profile, query.limit, query.after)
    following = records[-1].id if len(records) == query.limit else None
    return InteractionPage(interactions=[InteractionBody.of(record) for record in records], next=following)


@router.get("/{interaction_id}", responses=documented(404))
def get(interaction_id: Id, daemon: DaemonDep) -> InteractionBody:
    """One interaction."""
    return InteractionBody.of(daemon.db.interactions.get(interaction_id))


@router.delete("/{interaction_id}", responses=documented(404, 503, 507))
def delete(interaction_id: Id, daemon: DaemonDep) -> Deleted:
    """The interaction is gone; feedback on it keeps its own copy of the text."""
    daemon.db.interactions.delete(interaction_id)
    return Deleted(deleted=1)
