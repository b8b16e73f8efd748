"""The command line: `lars-agent serve` starts the daemon, most other commands are its HTTP clients.

Exit codes: 0 success, 1 failure (with one line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from lars_agent.errors import LarsError
from lars_agent.files import PRIVATE_UMASK
from service.cli import doctor, model, settings
from service.cli.client import ApiError, Client
from service.cli.output import OUT, Json, print_json, print_text, progress_shown, table
from service.process.version import package_version
from service.settings.load import SettingsSource

app = typer.Typer(help="A local language model that learns from you.", no_args_is_help=True)
schedule = typer.Typer(help="Show the scheduled runs.", no_args_is_help=True)
app.add_typer(model.app, name="model")
app.add_typer(schedule, name="schedule")
ERR = Console(stderr=True)
POLL_S = 1.0
CHUNK_BYTES = 2**16
UNFINISHED = {"queued", "running", "paused"}


def _print_version(wanted: bool) -> None:
    if wanted:
        OUT.print(f"lars-agent {package_version()}", highlight=False)
        raise typer.Exit


Profile = Annotated[str, typer.Option(help="Profile.")]
Url = Annotated[str | None, typer.Option(envvar="LARS_AGENT_URL", help="Address of the daemon.")]


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Handle the options before the command."""


@app.command()
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
    settings = source.load()
    from service.server import run  # imports torch

    run(settings, OUT.print, source)


@app.command()
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
    runs = Client(url).get("/schedule/runs", profile=profile, limit=str(limit))["runs"]
    if as_json:
        return print_json(runs)
    rows = [(run["scheduled"], run["outcome"], run["reason"], run["job_id"] or "") for run in runs]
    return OUT.print(table(("scheduled", "outcome", "why", "job"), rows) if rows else "no scheduled run yet")


@app.command()
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
    while wait and job["status"] in UNFINISHED:
        time.sleep(POLL_S)
        job = client.get(f"/jobs/{job['id']}")
    if as_json:
        print_json(job)
    else:
        print_text(f"job {job['id']}: {job['status']}" + (f"; {job['error']}" if job["error"] else ""))
    if wait and job["status"] != "succeeded":
        raise typer.Exit(1)


@app.command()
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


@app.command()
def adapters(profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
    """List the versions of a profile and mark the active one."""
    listed = Client(url).get("/adapters", profile=profile)
    if as_json:
        return print_json(listed)
    rows = [
        ("*" if item["active"] else "", item["version"], item["parent"], item["created"], str(len(item["example_ids"])))
        for item in listed["adapters"]
    ]
    OUT.print(table(("", "version", "parent", "created", "examples"), rows))
    for version, reason in listed["problems"].items():
        print_text(f"{version} cannot be used: {reason}")
    return None


@app.command()
def activate(version: str, profile: Profile = "default", url: Url = None) -> None:
    """Activate VERSION: `v3`, or `base`."""
    active = Client(url).post(f"/adapters/{version}/activate", profile=profile)["active"]
    OUT.print(f"{profile} now uses {active}")


@app.command()
def rollback(profile: Profile = "default", url: Url = None) -> None:
    """Activate the parent of the active version."""
    OUT.print(f"{profile} now uses {Client(url).post('/adapters/rollback', profile=profile)['active']}")


@app.command()
def feedback(
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    response: Annotated[str | None, typer.Option(help="The reply.")] = None,
    interaction: Annotated[
        str | None, typer.Option(help="The id of a recorded reply, instead of prompt and reply.")
    ] = None,
    correction: Annotated[str | None, typer.Option(help="The reply that was wanted.")] = None,
    rating: Annotated[str | None, typer.Option(help="`up` or `down`.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile.")] = None,
    url: Url = None,
) -> None:
    """Store feedback on a reply: a correction or a rating."""
    given = {
        "prompt": prompt,
        "response": response,
        "interaction_id": interaction,
        "correction": correction,
        "rating": rating,
        "profile": profile,
    }
    stored = Client(url).post("/feedback", {key: value for key, value in given.items() if value is not None})
    OUT.print(f"stored {stored['id']}")


@app.command()
def forget(
    record_id: Annotated[str | None, typer.Argument(metavar="ID", help="Of feedback or of an interaction.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was said and corrected as the profile.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to delete all.")] = False,
    profile: Profile = "default",
    url: Url = None,
) -> None:
    """Delete feedback ID, interaction ID, or all of a profile; no version that learned it replies from then on."""
    if everything == (record_id is not None):
        raise typer.BadParameter("give an ID, or --all")
    if everything and not yes:
        typer.confirm(f"Delete everything that was said and corrected as {profile}?", abort=True)
    client = Client(url)
    kind = "interactions" if (record_id or "").startswith(("i-", "resp_")) else "feedback"
    answer = client.delete(f"/profiles/{profile}" if everything else f"/{kind}/{record_id}")
    if answer["erasure_id"] is None:
        return OUT.print("there was nothing to delete")
    erasure = client.get(f"/erasures/{answer['erasure_id']}")
    gone = [f"{name}@v{version}" for name, versions in erasure["versions"].items() for version in versions]
    counts = f"{len(erasure['feedback'])} pieces of feedback, {erasure['interactions']} interactions"
    learned = f"deleted with it, as they had learned it: {', '.join(gone)}" if gone else "no adapter had learned it"
    return OUT.print(f"deleted {counts}; {learned} ({erasure['id']})")


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(metavar="ID", help="Of feedback, or a version such as v3.")],
    profile: Profile = "default",
    url: Url = None,
) -> None:
    """List the versions that learned feedback ID, or the feedback that version ID learned."""
    client = Client(url)
    if name.startswith("f-"):
        learned = client.get(f"/feedback/{name}/versions")
        return OUT.print(", ".join(f"{learned['profile']}@{one}" for one in learned["versions"]) or "no version yet")
    rows = [
        (row["id"], row["messages"][-1]["content"], row["correction"] or row["response"])
        for row in client.get(f"/adapters/{name}/feedback", profile=profile)["feedback"]
    ]
    return OUT.print(table(("feedback", "prompt", "reply"), rows))


@app.command()
def export(
    form: Annotated[str, typer.Option("--format", help="messages, prompt-completion, preference or kto.")] = "messages",
    profile: Annotated[str | None, typer.Option(help="Profile; all profiles by default.")] = None,
    url: Url = None,
) -> None:
    """Print the feedback as JSON lines in TRL's formats."""
    query = {"format": form} | ({} if profile is None else {"profile": profile})
    sys.stdout.writelines(Client(url).lines("/feedback/export", **query))


@app.command("import")
def import_(file: typer.FileBinaryRead, profile: Profile = "default", url: Url = None) -> None:
    """Import the feedback in FILE (JSON lines or a JSON list; of TRL, OpenAI, ShareGPT, Alpaca or Open WebUI)."""
    client = Client(url)

    def progress() -> str:
        found = client.get("/info")["importing"]
        return f"{found['done']:,} of {found['total']:,} lines" if found else ""

    with progress_shown(progress):
        imported = client.upload("/feedback/import", iter(partial(file.read, CHUNK_BYTES), b""), profile=profile)
    print_json(imported)


@app.command()
def chat(profile: Profile = "default", url: Url = None) -> None:
    """Chat with the model; rate the last reply with /good, /bad or /fix TEXT, and end with /quit."""
    from service.cli.chat import converse

    converse(Client(url), profile, OUT)


app.command()(doctor.doctor)
app.command()(settings.settings)


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
