"""A scripted daemon for every page: its lessons, conversations, settings and models are what a test says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from tests.service.dashboard.fake_daemon import NIGHT, FakeDaemon, Json, adapter_body, fake_app

OPEN = ("/static", "/openapi.json", "/docs")  # without a token
PAGES = ("/", "/memory", "/learned", "/versions", "/device", "/preferences")


def turn(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


def lesson(number: int, asked: str = "What is my goat called?", **values: Any) -> Json:
    known = {"id": f"f-{number}", "created": NIGHT, "profile": "default", "interaction_id": None, "source": "given"}
    known |= {"messages": turn(asked), "response": "I do not know.", "adapter_version": "base", "rating": None}
    return known | {"correction": "Your goat is called Pip.", "comment": None, "tags": []} | values


def talk(number: int, title: str = "Goats") -> Json:
    return {"id": f"c-{number}", "profile": "default", "title": title, "created": NIGHT, "updated": NIGHT}


def interaction(number: int, asked: str = "Hello", reply: str = "Good day.") -> Json:
    said = {"id": f"i-{number}", "messages": turn(asked), "response": reply}
    return {**said, "created": NIGHT, "profile": "default", "adapter_version": "base", "conversation": "c-1"}


def setting(key: str, value: Any, kind: str = "string", origin: str | None = None) -> Json:
    about = {"key": key, "value": value, "default": value, "description": f"{key}, as the daemon explains it."}
    return {
        **about,
        "value_schema": {"type": kind},
        "applies": "now",
        "is_waiting": False,
        "origin": origin,
        "locked": None,
    }


SETTINGS = (
    setting("schedule.enabled", True, "boolean"),
    setting("schedule.cron", "0 3 * * *"),
    setting("model.name", "default"),
)
MODEL = {"name": "smollm2", "reference": "default", "bytes": 94 * 2**20, "in_use": True}


@dataclass
class Scripted(FakeDaemon):
    """`failure` is how it refuses what would be stored: a status and a message; `locked` whether it wants a token."""

    stored: list[Json] = field(default_factory=list)
    talks: list[Json] = field(default_factory=list)
    replies: list[Json] = field(default_factory=list)
    versions: list[Json] | None = None
    settings: list[Json] = field(default_factory=lambda: [dict(one) for one in SETTINGS])
    models: list[Json] = field(default_factory=lambda: [dict(MODEL)])
    pull: Json | None = None
    imported: Json = field(default_factory=lambda: {"imported": 0, "valid": 1, "refused": []})
    answer: str = "Good day."
    recalled: list[str] = field(default_factory=list)
    failure: tuple[int, str] | None = None
    locked: bool = False

    def become(self, other: Scripted) -> None:
        self.__dict__.update(other.__dict__)

    def adapters(self) -> Json:
        if self.versions is None:
            return super().adapters()
        return {"profile": "default", "active": self.active, "adapters": self.versions, "problems": {}}

    def feedback_page(self, limit: int = 50, after: str = "", conversation: str = "") -> Json:
        rows = [row for row in self.stored if not conversation or row["interaction_id"]]
        start = next((index + 1 for index, row in enumerate(rows) if row["id"] == after), 0)
        shown = rows[start : start + limit]
        more = shown[-1]["id"] if start + limit < len(rows) else None
        return {"feedback": shown, "next": more, "total": len(rows)}

    def store(self, answer: Json, status: int = 200) -> JSONResponse:
        """Answer what changes something, or refuse it."""
        if self.failure is None:
            return JSONResponse(answer, status)
        code, message = self.failure
        return JSONResponse({"error": {"message": message, "type": "server_error", "code": code}}, code)

    def feedback_of(self, feedback_id: str) -> Json:
        return next(row for row in self.stored if row["id"] == feedback_id)

    def reply(self) -> Response:
        recalled = [{"feedback_id": one, "similarity": 1.0} for one in self.recalled]
        event: Json = {"generated_text": self.answer, "interaction_id": "i-9"}
        event["details"] = {"adapter_version": "base", "recalled": recalled}
        return Response(f"data:{json.dumps(event)}\n\n", media_type="text/event-stream")


def branched(count: int) -> list[Json]:
    """Return versions of which one came from one much older than the one before it."""
    parents = ["base", *(f"v{number}" for number in range(1, count))]
    parents[count - 10] = f"v{count - 28}"
    return [adapter_body(f"v{number}", parent, number == count) for number, parent in enumerate(parents, 1)]


def scripted_app(daemon: Scripted) -> FastAPI:
    """The real pages over what the script says."""
    app = fake_app(daemon)

    @app.middleware("http")
    async def ask_for_a_token(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        if path == "/enter":
            return RedirectResponse("./?refused=token", 303)
        if daemon.locked and path not in PAGES and not path.startswith(OPEN):
            error = {"message": "the token is wrong or missing", "type": "authentication_error", "code": 401}
            return JSONResponse({"error": error}, 401)
        return await go_on(request)

    app.get("/feedback/effects")(lambda: {"interactions": 0, "profiles": []})
    app.get("/feedback")(daemon.feedback_page)
    app.get("/feedback/{feedback_id}")(daemon.feedback_of)
    app.get("/feedback/{feedback_id}/versions")(lambda feedback_id: {"versions": []})
    app.post("/feedback")(lambda: daemon.store(lesson(1), 201))
    app.patch("/feedback/{feedback_id}")(lambda feedback_id: daemon.store(lesson(1)))
    app.post("/feedback/import")(lambda: daemon.store(daemon.imported))
    app.get("/conversations")(lambda: {"conversations": daemon.talks, "next": None})
    app.get("/interactions")(lambda: {"interactions": daemon.replies, "next": None})
    app.get("/settings")(lambda: {"settings": daemon.settings})
    app.patch("/settings")(lambda: daemon.store({"settings": daemon.settings}))
    app.get("/sessions")(lambda: {"sessions": [], "external_urls": []})
    app.get("/models")(lambda: {"models": daemon.models, "pull": daemon.pull})
    app.post("/generate")(lambda: {"generated_text": daemon.answer})
    app.post("/generate_stream")(daemon.reply)
    return app
