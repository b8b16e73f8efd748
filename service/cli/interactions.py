"""`lars-agent interactions`: list, show and delete recorded prompts and replies."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import forget
from service.cli.client import Client, path_of
from service.cli.options import AnyProfile, Id, Limit, Noun, Search, Url
from service.cli.output import Json, local_day, local_time, one_line, print_fields, print_json, print_page

app = typer.Typer(cls=Noun, help="List, show and delete recorded prompts and replies.")


@app.command("list")
def list_(
    profile: AnyProfile = None,
    search: Search = None,
    conversation: Annotated[str | None, typer.Option(help="Only of this conversation, by its id.")] = None,
    limit: Limit = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the latest prompts and replies with their ids."""
    query = {"profile": profile, "q": search, "conversation": conversation, "limit": limit}
    page = Client(url).get("/interactions", **query)
    if as_json:
        return print_json(page)
    rows = (
        (
            row["id"],
            local_day(row["created"]),
            row["profile"],
            row["adapter_version"],
            one_line(row["messages"][-1]["content"]),
            one_line(row["response"]),
        )
        for row in page["interactions"]
    )
    return print_page(page, "interactions", ("id", "created", "profile", "version", "prompt", "reply"), rows)


@app.command()
def show(interaction_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Show one prompt and its reply in full."""
    row = Client(url).get(path_of("interactions", interaction_id))
    if as_json:
        return print_json(row)
    return print_fields(
        [
            ("id", row["id"]),
            ("created", local_time(row["created"])),
            ("profile", row["profile"]),
            ("conversation", row["conversation"]),
            ("replied by", row["adapter_version"]),
            ("tokens", f"{row['prompt_tokens']:,} read, {row['generated_tokens']:,} written ({row['finish_reason']})"),
            *((turn["role"], turn["content"]) for turn in row["messages"]),
            ("reply", row["response"]),
        ]
    )


@app.command()
def delete(interaction_id: Id, url: Url = None, as_json: Json = False) -> None:
    """Delete a prompt, its reply and the feedback on it; no version that learned it replies from then on."""
    forget.delete(Client(url), path_of("interactions", interaction_id), as_json)
