"""The JSON that the dashboard reads, from a scripted daemon; one test uses the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse

from service.dashboard.routes import install, router

Json = dict[str, Any]

STEPS = 40
NIGHT = "2026-03-04T03:00:00Z"
REASON = "The loss on your held-out replies fell by 61.00% <b>in bold</b>; a fall of at least 2.00% is asked."
HOT = {
    "adapting": False,
    "words": "not adapting: the processor has 85 °C",
    "checks": [
        {"name": "heat", "state": "against", "words": "the processor has 85 °C"},
        {"name": "battery", "state": "unknown", "words": "the power supply is unknown"},
        {"name": "disk", "state": "fine", "words": "9,000 MiB of disk are free"},
    ],
}
MEMORY: Json = {"rss_bytes": 92_000_000, "endpoint_bytes": 520_000_000, "worker_bytes": 0, "budget_bytes": 2 * 2**30}
MEMORY |= {"limit": "cgroup"}
JOB_FIELDS = ("finished", "error", "result", "verdict", "version", "peak_bytes")


def progress_lines(steps: int = STEPS) -> list[Json]:
    """A training that goes well until step 30 and overfits after."""
    lines = []
    for step in range(1, steps + 1):
        line = {"phase": "training", "step": step, "steps": STEPS, "loss": 4.2 * 0.93**step + 0.1 * (step % 3)}
        if step % 5 == 0:
            line["heldout_loss"] = 1.6 + 2.6 * 0.92**step + 0.03 * max(0, step - 30)
        lines.append(line | {"rss_bytes": 1_400_000_000})
    return lines


def job_body(status: str, **values: Any) -> Json:
    body = {"id": "j-1", "profile": "default", "trigger": "schedule", "created": NIGHT, "started": NIGHT, "attempts": 1}
    known = {"spec": {"train": 24, "heldout": 6}, "budget_bytes": 2 * 2**30, "status": status}
    return {**body, **dict.fromkeys(JOB_FIELDS), **known, **values}


def adapter_body(version: str, parent: str, active: bool) -> Json:
    ids = {"version": version, "parent": parent, "active": active, "profile": "default", "created": NIGHT}
    return {**ids, "example_ids": ["f-1", "f-2"], "losses": {"heldout": 1.81}}


@dataclass
class FakeDaemon:
    """What it will answer, and which orders it got."""

    job: Json | None = None
    progress: list[Json] = field(default_factory=progress_lines)
    active: str = "v2"
    refusal: str | None = None
    orders: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    night: Json = field(default_factory=lambda: dict(HOT))
    runs: list[Json] = field(default_factory=list)
    model: Json | None = field(default_factory=lambda: {"name": "smollm2-135m-instruct", "dtype": "auto"})
    loading: str | None = None
    feedback: Json = field(default_factory=lambda: dict(total=31, corrections=24, liked=5, disliked=2, stated=0))
    lessons: int = 29
    interactions: int = 112
    names: tuple[str, ...] = ("default",)
    loading_error: str | None = None
    taught: list[Json] = field(default_factory=list)

    def info(self) -> Json:
        return {
            "version": "1.0",
            "uptime_s": 60.0,
            "model": self.model,
            "loading": self.loading,
            "loading_error": self.loading_error,
            "serving": dict.fromkeys(self.names, self.active),
            "problems": self.problems,
            "notices": self.notices,
            "feedback": self.feedback,
            "lessons": {"default": self.lessons},
            "interactions": self.interactions,
            "memory": MEMORY,
            "free_disk_bytes": 9 * 2**30,
            "job": self.job["id"] if self.job and self.job["finished"] is None else None,
            "schedule": {"enabled": True, "cron": "0 3 * * *", "next_run": NIGHT},
            "night": self.night,
        }

    def adapters(self) -> Json:
        chain = (("v1", "base"), ("v2", "v1"))
        bodies = [adapter_body(version, parent, version == self.active) for version, parent in chain]
        return {"profile": "default", "active": self.active, "adapters": bodies, "problems": {}}

    def adapt(self, profile: str = Body(embed=True)) -> JSONResponse:
        reply = self.order(f"adapt {profile}")
        if self.refusal is None:
            self.job = job_body("running")
        return reply

    def order(self, words: str) -> JSONResponse:
        self.orders.append(words)
        if self.refusal is not None:
            return JSONResponse({"error": {"message": self.refusal, "type": "conflict_error", "code": 409}}, 409)
        return JSONResponse({})


def bare_app() -> FastAPI:
    """The real pages, without anything that answers them."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(router)
    install(app)
    return app


def fake_app(daemon: FakeDaemon) -> FastAPI:
    """The real pages over the fake's JSON."""
    app = bare_app()
    app.get("/info")(daemon.info)
    app.get("/adapters")(daemon.adapters)
    app.get("/schedule/runs")(lambda: {"runs": daemon.runs})
    app.get("/jobs")(lambda: {"jobs": [daemon.job] if daemon.job else [], "next": None})
    app.get("/jobs/{job_id}")(lambda job_id: daemon.job)
    app.get("/jobs/{job_id}/progress")(lambda job_id, skip=0: {"progress": daemon.progress[int(skip) :]})
    app.post("/jobs")(daemon.adapt)
    app.post("/jobs/{job_id}/{verb}")(lambda job_id, verb: daemon.order(f"{verb} {job_id}"))
    app.get("/profiles")(lambda: {"profiles": [{"name": name} for name in daemon.names]})
    app.get("/adapters/{version}/feedback")(lambda version: {"feedback": daemon.taught, "next": None, "total": 0})
    return app
