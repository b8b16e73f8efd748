"""Which routes a caller may use whose token is bound to a profile; a route that is not named here is refused to them.

Those of `OWN` find nothing but the profile's own, as `Daemon.seen_by` gives it to them. What is named in a path, the
record of an id above all, is looked for before the route is called, and is missing where it is another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from service.api.caller import caller, require_own, require_owner
from service.api.dependencies import get_daemon
from service.api.middleware import is_open
from service.daemon import Daemon
from service.db.errors import ConversationNotFound

# By method and path: what a bound caller may do with what is the profile's own.
OWN: Mapping[str, tuple[str, ...]] = {
    "GET": (
        *("/adapters", "/adapters/{version}", "/adapters/{version}/feedback", "/adapters/{version}/probes"),
        *("/api/ps", "/api/tags", "/api/version", "/conversations", "/cycles", "/erasures", "/erasures/{erasure_id}"),
        *("/events", "/feedback", "/feedback/effects", "/feedback/export", "/feedback/{feedback_id}"),
        *("/feedback/{feedback_id}/effects", "/feedback/{feedback_id}/versions", "/feedback/{feedback_id}/wordings"),
        *("/info", "/interactions", "/interactions/{interaction_id}", "/jobs", "/jobs/{job_id}"),
        *("/jobs/{job_id}/events", "/jobs/{job_id}/progress", "/profiles", "/schedule/runs", "/v1/files"),
        *(
            "/v1/files/{file_id}",
            "/v1/files/{file_id}/content",
            "/v1/fine_tuning/jobs",
            "/v1/fine_tuning/jobs/{job_id}",
        ),
        *("/v1/fine_tuning/jobs/{job_id}/checkpoints", "/v1/fine_tuning/jobs/{job_id}/events"),
        *("/v1/models", "/v1/models/{name:path}", "/v1/responses/{response_id}"),
    ),
    "POST": (
        *("/adapters/rollback", "/adapters/{version}/activate", "/api/chat", "/api/copy", "/api/embed"),
        *("/api/embeddings", "/api/generate", "/api/pull", "/api/show", "/feedback", "/feedback/import"),
        *("/", "/generate", "/generate_stream", "/jobs", "/jobs/{job_id}/cancel", "/jobs/{job_id}/pause"),
        *("/jobs/{job_id}/resume", "/session", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/v1/feedback", "/v1/files", "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{job_id}/cancel"),
        *("/v1/fine_tuning/jobs/{job_id}/pause", "/v1/fine_tuning/jobs/{job_id}/resume", "/v1/messages"),
        *("/v1/responses",),
    ),
    "PATCH": ("/feedback/{feedback_id}",),
    "DELETE": (
        *("/api/delete", "/conversations/{conversation_id}", "/feedback", "/feedback/{feedback_id}"),
        *("/interactions/{interaction_id}", "/profiles/{profile}", "/session", "/v1/files/{file_id}"),
        *("/v1/responses/{response_id}",),
    ),
}
# What only the owner may do, as it is about the device or about everybody.
OWNERS: Mapping[str, tuple[str, ...]] = {
    "GET": (
        "/backups",
        "/metrics",
        "/models",
        "/models/preview",
        "/profiles/{profile}/tokens",
        "/sessions",
        "/settings",
    ),
    "POST": ("/backups", "/models", "/profiles/{profile}/tokens", "/session/links"),
    "PATCH": ("/settings",),
    "DELETE": ("/models/{name}", "/profiles/{profile}/tokens/{token_id}", "/sessions/{session_id}"),
}


def _require_conversation(daemon: Daemon, conversation_id: str) -> None:
    if not daemon.db.interactions.count(conversation=conversation_id):
        raise ConversationNotFound.of(conversation_id)


# What a parameter of a path names; one that is not known here is refused.
NAMED: Mapping[str, Callable[[Daemon, str], object]] = {
    "conversation_id": _require_conversation,
    "erasure_id": lambda daemon, name: daemon.db.erasures.get(name),
    "feedback_id": lambda daemon, name: daemon.db.feedback.get(name),
    "file_id": lambda daemon, name: daemon.db.files.get(name),
    "interaction_id": lambda daemon, name: daemon.db.interactions.get(name),
    "job_id": lambda daemon, name: daemon.db.jobs.get(name),
    "name": lambda daemon, name: None,  # of a model, which is looked for among the profile's own
    "profile": lambda daemon, name: require_own(name),
    "response_id": lambda daemon, name: daemon.db.interactions.get(name),
    "version": lambda daemon, name: None,  # of the profile in the query, which is the profile's own
}


def may_use(method: str, path: str) -> bool:
    """Return whether a bound caller may use the route of this path, as those that are open to anybody."""
    return is_open(path, method) or path in OWN.get("GET" if method == "HEAD" else method, ())


async def require_allowed(request: Request) -> None:
    """Raise OwnerOnly where a bound caller may not use the route, and what says that what it names is not there."""
    if caller().profile is None:
        return
    route = request.scope["route"].path
    if not may_use(request.method, route):
        require_owner("ask for this")
    daemon = await get_daemon(request)
    for name, value in request.path_params.items():
        if name not in NAMED:
            raise HTTPException(403, f"what {name} names is not known to be your own")
        await run_in_threadpool(partial(NAMED[name], daemon, str(value)))
