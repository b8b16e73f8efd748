"""Conversations: the interactions that a client sent under one id (header `LARS-Conversation`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import DaemonDep
from service.api.erasures import deleted
from service.api.errors import documented
from service.api.fields import Deleted, Id, Page, PageQuery, ProfileFilter, Reply, Words, next_page

router = APIRouter(prefix="/conversations", tags=["interactions"])


class ConversationQuery(PageQuery):
    """Filter and page of a list of conversations."""

    q: Words | None = None


class ConversationBody(Reply):
    """A conversation; its title is the first message."""

    id: str
    profile: str
    title: str
    created: datetime
    updated: datetime
    interactions: int


class ConversationPage(Page):
    """Conversations, the one last spoken in first."""

    conversations: list[ConversationBody]


@router.get("")
def list_conversations(query: Annotated[ConversationQuery, Query()], daemon: DaemonDep) -> ConversationPage:
    """List conversations, the one last spoken in first. `GET /interactions?conversation=` has what was said in one."""
    found = daemon.db.interactions.conversations(**query.model_dump())
    return ConversationPage.model_validate({"conversations": found, "next": next_page(found, query.limit)})


@router.delete("/{conversation_id}", responses=documented(404, 503, 507))
def delete(conversation_id: Id, query: Annotated[ProfileFilter, Query()], daemon: DaemonDep) -> Deleted:
    """Delete its interactions and the feedback on them, as `DELETE /interactions/{interaction_id}` does."""
    return deleted(daemon, daemon.db.erasures.conversation(conversation_id, query.profile), deleted_interactions=True)
