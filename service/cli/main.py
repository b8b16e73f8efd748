"""The command line: `lars-agent serve` starts the daemon, most other commands are its HTTP clients.

A noun has verbs (`jobs list`, `jobs cancel`); what is done every day is a verb of its own (`adapt`, `activate`), and a
verb of its noun too. Exit codes: 0 done, 1 failed (with one line on stderr), 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from lars_agent.errors import LarsError
from lars_agent.files import PRIVATE_UMASK
from service.backup.swap import load_whole
from service.cli import (
    adapters,
    backup,
    bundle,
    doctor,
    feedback,
    forget,
    interactions,
    jobs,
    model,
    profile,
    sessions,
    settings,
    support_bundle,
    token,
)
from service.cli.client import ApiError, Client, path_of
from service.cli.options import Id, Profile, Url
from service.cli.output import ERR, OUT, Json, one_line, print_json, print_result, print_text, table
from service.process.version import package_version
from service.settings.load import SettingsSource

EVERY_DAY, RECORDS, DEVICE = "Every day", "What it keeps", "The daemon and this device"

app = typer.Typer(
    help="A local language model that learns from you.",
    epilog="Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong use, 130 interrupted.",
    no_args_is_help=True,
)
schedule = typer.Typer(help="Show the scheduled runs.", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        OUT.print(f"lars-agent {package_version()}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Handle the options before the command."""


@app.command(rich_help_panel=DEVICE)
def serve(
    config: Annotated[Path | None, typer.Option(help="Configuration file to use instead of the user's.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of database, models and adapters.")] = None,
) -> None:
    """Start the daemon; download the base model the first time."""
    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    overrides: dict[str, Any] = {"server": server} if server else {}
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    source = SettingsSource(config, overrides)
    settings = load_whole(source)
    from service.server import run  # imports torch

    run(settings, OUT.print, source)


@app.command(rich_help_panel=EVERY_DAY)
def status(url: Url = None, as_json: Json = False) -> None:
    """Show what the daemon is doing and the feedback it has."""
    info = Client(url).get("/info")
    if as_json:
        return print_json(info)
    feedback, schedule = info["feedback"], info["schedule"]
    unknown = ", ".join(check["name"] for check in info["night"]["checks"] if check["state"] == "unknown")
    missing = "; ".join(filter(None, (info["loading_error"], info["loading"]))) or "loading"
    lines = [
        f"model     {info['model']['name'] if info['model'] else missing}",
        "serving   " + ", ".join(f"{name}: {version}" for name, version in info["serving"].items()),
        f"feedback  {feedback['total']} ({feedback['corrections']} corrections)",
        f"next run  {schedule['next_run'] if schedule['enabled'] else 'only when asked'}",
        f"job       {info['job'] or 'none'}",
        f"now       {info['night']['words']}",
        *(f"unknown   {names} (not reported by this device; blocks nothing)" for names in [unknown] if names),
        *(f"problem   {message}" for message in info["problems"]),
        *(f"notice    {message}" for message in info["notices"]),
    ]
    return print_text("\n".join(lines))


@schedule.command()
@app.command("nights", hidden=True, deprecated=True)  # its earlier name
def history(
    profile: Profile = "default",
    limit: Annotated[int, typer.Option(help="Number of runs.")] = 14,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the latest scheduled runs with their outcome and reason."""
    runs = Client(url).get("/schedule/runs", profile=profile, limit=limit)["runs"]
    if as_json:
        return print_json(runs)
    rows = [(run["scheduled"], run["outcome"], run["reason"], run["job_id"] or "") for run in runs]
    return OUT.print(table(("scheduled", "outcome", "why", "job"), rows) if rows else "no scheduled run yet")


@app.command(rich_help_panel=DEVICE)
def plan(profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
    """Show how the next adaptation would keep its memory budget; exit 1 if it cannot."""
    from service.cli.plan import show

    planned = Client(url).post("/jobs", {"profile": profile}, dry_run="true")
    if as_json:
        print_json(planned)
    else:
        show(planned)
    if planned["chosen"] is None:
        raise typer.Exit(1)


@app.command(rich_help_panel=RECORDS)
def lineage(name: Id, profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
    """List the versions that learned feedback ID, or the feedback that the version ID (such as v3) learned."""
    client = Client(url)
    if name.startswith("f-"):
        learned = client.get(path_of("feedback", name, "versions"))
        versions = ", ".join(f"{learned['profile']}@{one}" for one in learned["versions"])
        return print_result(learned, versions or "no version yet", as_json)
    page = client.get(path_of("adapters", name, "feedback"), profile=profile)
    if as_json:
        return print_json(page)
    rows = [
        (row["id"], one_line(row["messages"][-1]["content"]), one_line(row["correction"] or row["response"]))
        for row in page["feedback"]
    ]
    return OUT.print(table(("id", "prompt", "reply"), rows))


@app.command(rich_help_panel=RECORDS)
def names(url: Url = None, as_json: Json = False) -> None:
    """List the names that a client's `model` may have: profiles, their versions, `base`, and aliases."""
    listed = Client(url).get("/v1/models")
    if as_json:
        return print_json(listed)
    rows = [(card["id"], card["root"], card["parent"] or "") for card in listed["data"]]
    return OUT.print(table(("name", "replies as", "trained from"), rows))


@app.command(rich_help_panel=EVERY_DAY)
def chat(profile: Profile = "default", url: Url = None) -> None:
    """Chat with the model; /good, /bad and /fix TEXT rate the last reply, /help lists the commands."""
    from service.cli.chat import converse

    converse(Client(url), profile, OUT)


app.command(rich_help_panel=EVERY_DAY)(jobs.adapt)
app.add_typer(feedback.app, name="feedback", rich_help_panel=RECORDS)
app.add_typer(interactions.app, name="interactions", rich_help_panel=RECORDS)
app.add_typer(jobs.app, name="jobs", rich_help_panel=RECORDS)
app.add_typer(adapters.app, name="adapters", rich_help_panel=RECORDS)
app.add_typer(profile.app, name="profile", rich_help_panel=RECORDS)
app.add_typer(schedule, name="schedule", rich_help_panel=RECORDS)
app.add_typer(model.app, name="model", rich_help_panel=DEVICE)
app.add_typer(sessions.app, name="sessions", rich_help_panel=DEVICE)
app.command(rich_help_panel=EVERY_DAY)(adapters.activate)
app.command(rich_help_panel=EVERY_DAY)(adapters.rollback)
app.command(rich_help_panel=RECORDS)(forget.forget)
app.command(rich_help_panel=RECORDS)(feedback.export)
app.command("import", rich_help_panel=RECORDS)(feedback.import_)
app.command(rich_help_panel=DEVICE)(backup.backup)
app.command(rich_help_panel=DEVICE)(backup.restore)
app.command(rich_help_panel=DEVICE)(bundle.bundle)
app.command(rich_help_panel=DEVICE)(doctor.doctor)
app.command(rich_help_panel=DEVICE)(settings.settings)
app.command(rich_help_panel=DEVICE)(support_bundle.support_bundle)
app.command(rich_help_panel=DEVICE)(token.token)


@app.command(
    hidden=True, add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench() -> None:
    """Say where the benchmarks are."""
    ERR.print("the benchmarks are a tool of the checkout; run there: python -m bench", soft_wrap=True)
    raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that a user can cause is one line on stderr."""
    os.umask(PRIVATE_UMASK)
    try:
        app(args=arguments, prog_name="lars-agent")
    except (LarsError, ApiError, OSError, httpx.InvalidURL) as error:
        ERR.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
