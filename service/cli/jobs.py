"""`lars-agent jobs`: list, show, pause, resume and cancel jobs; `adapt` starts one and follows it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from service.cli.client import ApiError, Client, path_of
from service.cli.options import AnyProfile, Limit, Noun, OptionalId, Profile, Url
from service.cli.output import (
    ERR,
    Json,
    local_day,
    local_time,
    one_line,
    print_fields,
    print_json,
    print_page,
    print_result,
    print_text,
)

POLL_S = 1.0
UNFINISHED = {"queued", "running", "paused"}
PHASES = {
    "preparing": "preparing",
    "training": "training",
    "judging": "comparing with the version in use",
    "publishing": "publishing",
    "done": "publishing",
}

app = typer.Typer(cls=Noun, help="List, show, pause, resume and cancel training jobs.")


def adapt(
    profile: Profile = "default",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the job; exit 1 unless it published a version.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Train an adapter on the feedback now."""
    client = Client(url)
    job = client.post("/jobs", {"profile": profile, "trigger": "cli"})
    if not wait:
        return print_result(job, _outcome(job), as_json)
    say: Callable[[str], None] = (lambda text: print_text(text, ERR)) if as_json else print_text
    say(f"job {job['id']}: begun; it goes on if this command ends")
    job = follow(client, job, say)
    print_result(job, _outcome(job), as_json)
    if job["status"] != "succeeded":
        raise typer.Exit(1)
    return None


def follow(client: Client, job: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Return the job at its end; say each phase that it enters, and a terminal each step."""
    path, seen, phase, paused = path_of("jobs", job["id"]), 0, "", ""
    with ERR.status("") as status:
        while True:
            job = client.get(path)
            records = client.get(f"{path}/progress", skip=seen)["progress"]
            seen += len(records)
            state = job["state"] or {}
            for name in [*(record.get("phase") for record in records), state.get("phase")]:
                if name in PHASES and PHASES[name] != phase:
                    phase = PHASES[name]
                    say(phase)
            waits = "resumed" if job["status"] == "paused" else ", ".join(state.get("waiting_for", ()))
            if waits and waits != paused:
                say(f"paused until {waits}" if waits == "resumed" else f"waiting for: {waits}")
            paused = waits
            if job["status"] not in UNFINISHED:
                return job
            status.update(_step(state) or phase)
            time.sleep(POLL_S)


@app.command("list")
def list_(profile: AnyProfile = None, limit: Limit = 20, url: Url = None, as_json: Json = False) -> None:
    """List the latest jobs with their ids and outcome."""
    page = Client(url).get("/jobs", profile=profile, limit=limit)
    if as_json:
        return print_json(page)
    rows = (
        (
            row["id"],
            local_day(row["created"]),
            row["profile"],
            f"{row['status']}: {row['version']}" if row["status"] == "succeeded" else row["status"],
            one_line(row["error"] or row["reason"]),
        )
        for row in page["jobs"]
    )
    return print_page(page, "jobs", ("id", "created", "profile", "status", "note"), rows)


@app.command()
def show(job_id: OptionalId = None, url: Url = None, as_json: Json = False) -> None:
    """Show a job: how far it is, and its verdict."""
    client = Client(url)
    row = client.get(path_of("jobs", job_id or _current(client)))
    if as_json:
        return print_json(row)
    spec, state = row["spec"] or {}, row["state"] or {}
    return print_fields(
        [
            ("id", row["id"]),
            ("profile", row["profile"]),
            ("status", row["status"]),
            ("phase", PHASES.get(state.get("phase", ""))),
            ("step", _step(state)),
            ("waiting for", ", ".join(state.get("waiting_for", ()))),
            ("begun by", row["trigger"]),
            ("because", row["reason"]),
            ("created", local_time(row["created"])),
            ("finished", local_time(row["finished"])),
            ("examples", f"{spec['train']} to learn, {spec['heldout']} held out" if spec.get("train") else None),
            ("peak memory", f"{row['peak_bytes'] / 2**20:,.0f} MiB" if row["peak_bytes"] else None),
            ("version", row["version"] if row["status"] == "succeeded" else None),
            ("error", row["error"]),
            ("verdict", "\n".join((row["verdict"] or {}).get("reasons", ()))),
        ]
    )


app.command("start")(adapt)


@app.command()
def pause(job_id: OptionalId = None, url: Url = None, as_json: Json = False) -> None:
    """Pause a job until it is resumed."""
    _change("pause", job_id, url, as_json)


@app.command()
def resume(job_id: OptionalId = None, url: Url = None, as_json: Json = False) -> None:
    """Resume a paused job."""
    _change("resume", job_id, url, as_json)


@app.command()
def cancel(job_id: OptionalId = None, url: Url = None, as_json: Json = False) -> None:
    """Cancel a job; the version in use stays."""
    _change("cancel", job_id, url, as_json)


def _change(verb: str, job_id: str | None, url: str | None, as_json: bool) -> None:
    client = Client(url)
    job = client.post(path_of("jobs", job_id or _current(client), verb))
    done = {"cancel": "is being cancelled", "pause": "paused", "resume": "resumed"}[verb]
    text = f"job {job['id']}: {job['status']}" if job["status"] == "cancelled" else f"job {job['id']}: {done}"
    print_result(job, text, as_json)


def _current(client: Client) -> str:
    """Return the id of the job that is at work. Raises ApiError."""
    job_id: str | None = client.get("/info")["job"]
    if job_id is None:
        raise ApiError("no job is at work; give an ID, lars-agent jobs list shows them")
    return job_id


def _outcome(job: dict[str, Any]) -> str:
    """Return the job's status, the version that it published, and the verdict's reasons."""
    version = f"; published {job['profile']}@{job['version']}" if job["status"] == "succeeded" else ""
    reasons = (job["verdict"] or {}).get("reasons", ())
    error = f"; {job['error']}" if job["error"] and job["error"] != " ".join(reasons) else ""
    return "\n  ".join([f"job {job['id']}: {job['status']}{version}{error}", *reasons])


def _step(state: dict[str, Any]) -> str:
    """Return how far the training is; empty while it is not training."""
    if state.get("phase") != "training" or not state.get("step") or not state.get("steps"):
        return ""
    left = "" if state["seconds_left"] is None else f", about {state['seconds_left']:,.0f} s left"
    return f"step {state['step']} of {state['steps']}{left}"
