"""`lars-agent adapters`: list, show, activate and roll back the versions of a profile."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli.client import Client, path_of
from service.cli.options import Noun, Profile, Url
from service.cli.output import OUT, Json, local_time, print_fields, print_json, print_result, print_text, table

app = typer.Typer(cls=Noun, help="List, show and activate the versions of a profile.")
Version = Annotated[str, typer.Argument(help="`v3`, or `base`.")]


@app.command("list")
def list_(profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
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
def show(
    version: Annotated[str, typer.Argument(help="Such as `v3`.")],
    profile: Profile = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show one version: what it was trained on, and why it was accepted."""
    row = Client(url).get(path_of("adapters", version), profile=profile)
    if as_json:
        return print_json(row)
    return print_fields(
        [
            ("version", f"{row['profile']}@{row['version']}{', in use' if row['active'] else ''}"),
            ("parent", row["parent"]),
            ("created", local_time(row["created"])),
            ("job", row["job_id"]),
            ("base model", row["base_model"]),
            ("examples", str(len(row["example_ids"]))),
            ("ratings", f"{row['ratings']['good']} good, {row['ratings']['bad']} bad"),
            ("losses", json.dumps(row["losses"])),
            ("verdict", "\n".join(row["verdict"].get("reasons", ()))),
        ]
    )


@app.command()
def activate(version: Version, profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
    """Activate VERSION: `v3`, or `base`."""
    answer = Client(url).post(path_of("adapters", version, "activate"), profile=profile)
    print_result(answer, f"{profile} now uses {answer['active']}", as_json)


@app.command()
def rollback(profile: Profile = "default", url: Url = None, as_json: Json = False) -> None:
    """Activate the parent of the active version."""
    answer = Client(url).post("/adapters/rollback", profile=profile)
    print_result(answer, f"{profile} now uses {answer['active']}", as_json)
