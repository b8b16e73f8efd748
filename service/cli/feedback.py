"""`lars-agent feedback`: list, show, add and delete feedback; export and import."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Literal

import typer

from service.cli import forget
from service.cli.client import Client, path_of
from service.cli.options import AnyProfile, Id, Limit, Noun, Profile, Search, Url
from service.cli.output import (
    Json,
    local_day,
    local_time,
    one_line,
    print_fields,
    print_json,
    print_page,
    print_result,
    progress_shown,
)

CHUNK_BYTES = 2**16
OF_ADD = ("--prompt", "--response", "--interaction", "--correction", "--rating", "--comment")


class FeedbackNoun(Noun):
    """Commands on feedback; `feedback --prompt ...`, the earlier form, adds some."""

    def left_out(self, args: list[str]) -> str:
        """Return `add` for its options."""
        return "add" if any(arg.split("=")[0] in OF_ADD for arg in args) else "list"


app = typer.Typer(cls=FeedbackNoun, help="List, show, add and delete feedback.")


@app.command("list")
def list_(
    profile: AnyProfile = None,
    search: Search = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    source: Annotated[
        Literal["given", "stated"] | None, typer.Option(help="Given as feedback, or stated in a conversation.")
    ] = None,
    limit: Limit = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the latest feedback with its ids."""
    page = Client(url).get("/feedback", profile=profile, q=search, tag=tag, source=source, limit=limit)
    if as_json:
        return print_json(page)
    rows = (
        (
            row["id"],
            local_day(row["created"]),
            row["profile"],
            one_line(row["messages"][-1]["content"]),
            one_line(row["correction"] or row["response"]),
            _judged(row["rating"], row["correction"]),
        )
        for row in page["feedback"]
    )
    return print_page(page, "feedback", ("id", "created", "profile", "prompt", "reply", "judged"), rows)


@app.command()
def show(feedback_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Show one piece of feedback in full, and the versions that learned it."""
    client = Client(url)
    row = client.get(path_of("feedback", feedback_id))
    versions = client.get(path_of("feedback", feedback_id, "versions"))["versions"]
    if as_json:
        return print_json({**row, "versions": versions})
    return print_fields(
        [
            ("id", row["id"]),
            ("created", local_time(row["created"])),
            ("profile", row["profile"]),
            ("interaction", row["interaction_id"]),
            ("replied by", row["adapter_version"]),
            ("rating", None if row["rating"] is None else f"{row['rating']:+g}"),
            ("tags", ", ".join(row["tags"])),
            ("source", row["source"]),
            ("learned by", ", ".join(versions) or "no version yet"),
            *((turn["role"], turn["content"]) for turn in row["messages"]),
            ("reply", row["response"]),
            ("correction", row["correction"]),
            ("comment", row["comment"]),
        ]
    )


@app.command()
def add(
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    response: Annotated[str | None, typer.Option(help="The reply.")] = None,
    interaction: Annotated[
        str | None, typer.Option(help="The id of a recorded reply, instead of prompt and reply.")
    ] = None,
    correction: Annotated[str | None, typer.Option(help="The reply that was wanted.")] = None,
    rating: Annotated[str | None, typer.Option(help="`up` or `down`.")] = None,
    comment: Annotated[str | None, typer.Option(help="A remark.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    profile: Annotated[str | None, typer.Option(help="Profile; by default that of the reply, or `default`.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Store feedback on a reply: a correction or a rating."""
    given = {
        "prompt": prompt,
        "response": response,
        "interaction_id": interaction,
        "correction": correction,
        "rating": rating,
        "comment": comment,
        "tags": tag or None,
        "profile": profile,
    }
    stored = Client(url).post("/feedback", {key: value for key, value in given.items() if value is not None})
    print_result(stored, f"stored {stored['id']}", as_json)


@app.command()
def delete(feedback_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Delete feedback and the interaction it is about; no version that learned it replies from then on."""
    forget.delete(Client(url), path_of("feedback", feedback_id), as_json)


@app.command()
def export(
    form: Annotated[str, typer.Option("--format", help="messages, prompt-completion, preference or kto.")] = "messages",
    profile: AnyProfile = None,
    url: Url = None,
) -> None:
    """Print the feedback as JSON lines in TRL's formats."""
    query = {"format": form} | ({} if profile is None else {"profile": profile})
    sys.stdout.writelines(Client(url).lines("/feedback/export", **query))


@app.command("import")
def import_(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="As `export` prints it; - for standard input.")],
    profile: Profile = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Import the feedback in FILE (JSON lines or a JSON list; of TRL, OpenAI, ShareGPT, Alpaca or Open WebUI)."""
    client = Client(url)

    def progress() -> str:
        found = client.get("/info")["importing"]
        return f"{found['done']:,} of {found['total']:,} lines" if found else ""

    with progress_shown(progress):
        imported = client.upload("/feedback/import", iter(partial(file.read, CHUNK_BYTES), b""), profile=profile)
    there = f"; {imported['already_there']:,} were there already" if imported.get("already_there") else ""
    print_result(imported, f"imported {imported['imported']:,} pieces of feedback{there}", as_json)


def _judged(rating: float | None, correction: str | None) -> str:
    if correction is not None:
        return "corrected"
    return "" if rating is None else "liked" if rating > 0 else "disliked"
