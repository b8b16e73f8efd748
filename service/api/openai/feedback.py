"""Feedback as Open WebUI sends it: POST /v1/feedback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Response

from lars_agent.store.names import parse_adapter_name
from service.api.dependencies import DaemonDep
from service.api.errors import InvalidField, Responses, documented
from service.api.feedback import FeedbackBody
from service.api.fields import ProfileFilter
from service.api.open_webui import FeedbackRow
from service.daemon import Daemon
from service.db.records import NewFeedback
from service.settings.server import LATEST

router = APIRouter(prefix="/v1/feedback", tags=["feedback"])

CHANGED: Responses = {
    200: {"model": FeedbackBody, "description": "There was feedback on this message of this chat; it is changed."}
}


class OwnerQuery(ProfileFilter):
    """The profile that the feedback is for; by default that of the model that replied, or `default`."""


@router.post("", status_code=201, responses=CHANGED | documented(404, 503, 507))
def add(
    body: FeedbackRow, query: Annotated[OwnerQuery, Query()], response: Response, daemon: DaemonDep
) -> FeedbackBody:
    """Store Open WebUI's feedback, or change what was stored for this message; fields of its own are ignored.

    Where the reply is one of this daemon's last ones, the feedback is on that interaction.
    """
    found = body.to_news()
    if not found:
        raise InvalidField("data.rating", "is missing; give a rating or a comment, or edit the reply")
    record, is_new = daemon.db.feedback.put(_on_interaction(found[0], query.profile or _profile(body, daemon), daemon))
    daemon.ratings.note(record)
    response.status_code = 201 if is_new else 200
    return FeedbackBody.model_validate(record)


def _profile(body: FeedbackRow, daemon: Daemon) -> str | None:
    """Return the profile of the model that replied; None if the model is none of this daemon's."""
    aliases = daemon.settings.server.model_aliases
    for name in _models(body):
        adapter = parse_adapter_name(aliases.get(name, name).removesuffix(LATEST))
        if adapter is not None and adapter.profile in daemon.profiles:
            return adapter.profile
    return daemon.profile


def _models(body: FeedbackRow) -> Iterator[str]:
    """Yield the names of the model: Open WebUI's own for it, and that of the model behind it."""
    base_models = body.meta.get("base_models")
    behind = base_models.get(body.data.model_id) if isinstance(base_models, dict) else None
    for name in (body.data.model_id, body.meta.get("model_id"), behind):
        if isinstance(name, str):
            yield name


def _on_interaction(new: NewFeedback, profile: str | None, daemon: Daemon) -> NewFeedback:
    """Return the feedback, on the interaction that it is about if that is found."""
    assert new.messages is not None, "Open WebUI's has a chat"
    assert new.response is not None, "Open WebUI's has a chat"
    interaction = daemon.db.interactions.latest(profile, new.messages[-1]["content"], new.response)
    if interaction is None:
        return replace(new, profile=profile)
    return replace(new, profile=profile, interaction_id=interaction.id, messages=None, response=None)
