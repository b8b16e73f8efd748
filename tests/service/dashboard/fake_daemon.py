"""The JSON that the dashboard reads, in the shapes of `service.api.schemas`, from a daemon that does as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from service.api.schemas import (
    AdapterBody,
    AdapterList,
    FeedbackCounts,
    Info,
    JobBody,
    JobPage,
    JobProgress,
    JobRequest,
    MemoryInfo,
    ModelInfo,
    ScheduleInfo,
)
from service.dashboard.routes import mount_static, router

STEPS = 40
NIGHT = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)
REASON = "The loss on your held-out replies fell by 61.00% <b>in bold</b>; a fall of at least 2.00% is asked."


def progress_lines(steps: int = STEPS) -> list[dict[str, Any]]:
    """A training that goes well until step 30 and overfits after."""
    lines = []
    for step in range(1, steps + 1):
        line = {"phase": "training", "step": step, "steps": STEPS, "loss": 4.2 * 0.93**step + 0.1 * (step % 3)}
        if step % 5 == 0:
            line["heldout_loss"] = 1.6 + 2.6 * 0.92**step + 0.03 * max(0, step - 30)
        lines.append(line | {"rss_bytes": 1_400_000_000})
    return lines


def job_body(status: str, **values: Any) -> JobBody:
    body = {"id": "j-1", "profile": "default", "trigger": "schedule", "created": NIGHT, "started": NIGHT, "attempts": 1}
    none = dict.fromkeys(("finished", "error", "result", "verdict", "version", "peak_bytes"))
    spec = {"train": 24, "heldout": 6}
    return JobBody(**{**body, **none, "spec": spec, "budget_bytes": 2 * 2**30, "status": status, **values})


def adapter_body(version: str, parent: str, active: bool) -> AdapterBody:
    none = dict.fromkeys(("base_model_revision", "peak_bytes", "budget_bytes"))
    empty: dict[str, dict[str, Any]] = {name: {} for name in ("config", "plan", "verdict", "files")}
    ids = {"version": version, "parent": parent, "active": active, "profile": "default", "job_id": "j-1"}
    base = {"base_model": "fake", "base_model_sha256": "b" * 64, "created": NIGHT.isoformat()}
    return AdapterBody(**ids, **base, **none, **empty, example_ids=["f-1", "f-2"], losses={"heldout": 1.81})


@dataclass
class FakeDaemon:
    """What it will answer, and which orders it got."""

    job: JobBody | None = None
    progress: list[dict[str, Any]] = field(default_factory=progress_lines)
    active: str = "v2"
    refusal: str | None = None
    orders: list[str] = field(default_factory=list)

    def info(self) -> Info:
        running = self.job.id if self.job and self.job.finished is None else None
        return Info(
            version="0.1.0",
            uptime_s=5.0,
            model=ModelInfo(name="smollm2-135m-instruct", reference="x", revision=None, sha256="b" * 64, dtype="auto"),
            loading_error=None,
            serving={"default": self.active},
            problems=[],
            feedback=FeedbackCounts(total=31, corrections=24, liked=5, disliked=2),
            interactions=112,
            memory=MemoryInfo(rss_bytes=612_000_000, peak_bytes=700_000_000, budget_bytes=2 * 2**30),
            job=running,
            schedule=ScheduleInfo(enabled=True, cron="0 3 * * *", next_run=NIGHT),
        )

    def adapters(self) -> AdapterList:
        chain = (("v1", "base"), ("v2", "v1"))
        bodies = [adapter_body(version, parent, version == self.active) for version, parent in chain]
        return AdapterList(profile="default", active=self.active, adapters=bodies, problems={})

    def order(self, words: str) -> JSONResponse:
        self.orders.append(words)
        if self.refusal is not None:
            return JSONResponse({"error": {"message": self.refusal, "type": "conflict_error", "code": 409}}, 409)
        if words == "adapt default":
            self.job = job_body("running")
        return JSONResponse({})


def fake_app(daemon: FakeDaemon) -> FastAPI:
    """The real page over the fake's JSON."""
    app = FastAPI()
    app.include_router(router)
    mount_static(app)
    app.get("/info")(daemon.info)
    app.get("/adapters")(daemon.adapters)
    app.get("/jobs")(lambda: JobPage(jobs=[daemon.job] if daemon.job else [], next=None))
    app.get("/jobs/{job_id}")(lambda job_id: daemon.job)
    app.get("/jobs/{job_id}/progress")(lambda job_id: JobProgress(progress=daemon.progress))

    @app.post("/jobs")
    def adapt(body: JobRequest) -> JSONResponse:
        return daemon.order(f"adapt {body.profile}")

    app.post("/jobs/{job_id}/{verb}")(lambda job_id, verb: daemon.order(f"{verb} {job_id}"))
    app.post("/adapters/rollback")(lambda: daemon.order("rollback"))
    app.post("/adapters/{version}/activate")(lambda version: daemon.order(f"activate {version}"))
    return app
