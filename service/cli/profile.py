"""`lars-agent profile`: list the profiles, and make, list and revoke the tokens that stand for one of them alone."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from service.cli.client import Client, path_of
from service.cli.options import Noun, Url
from service.cli.output import OUT, Json, local_time, print_json, print_result, print_text, table

app = typer.Typer(cls=Noun, help="List profiles; let a person see and use one of them alone.")


@app.command("list")
def list_(url: Url = None, as_json: Json = False) -> None:
    """List the profiles, with what each has and the version that replies."""
    listed = Client(url).get("/profiles")
    if as_json:
        return print_json(listed)
    rows = [
        (row["name"], row["serving"], *(str(row[name]) for name in ("feedback", "interactions", "versions")))
        for row in listed["profiles"]
    ]
    return OUT.print(table(("profile", "serving", "feedback", "interactions", "versions"), rows, right=(2, 3, 4)))


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the profile; it need not exist yet.")],
    new: Annotated[bool, typer.Option("--new", help="Make a further one.")] = False,
    label: Annotated[str | None, typer.Option(help="What or whom the new one is for.")] = None,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="Revoke this one.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make the first token of profile NAME and show it, this once; or list those that there are."""
    client, path = Client(url), path_of("profiles", name, "tokens")
    if revoke is not None:
        if new or label is not None:
            raise typer.BadParameter("a token is either made or revoked")
        gone = client.delete(path_of("profiles", name, "tokens", quote(revoke, safe="")))
        return print_result(gone, f"revoked {gone['id']}; it and its browsers are refused from now on", as_json)
    known = client.get(path)
    if known["tokens"] and not new and label is None:
        return _list(known, name, as_json)
    made = client.post(path, {"label": label})
    if as_json:
        return print_json(made)
    print_text(f"{made['token']}\n\nThis is the only time that it is shown. Who has it sees and uses {name} alone: as")
    return print_text("the token of a client, as LARS_AGENT_TOKEN, or in the form of the dashboard.")


def _list(known: dict[str, Any], name: str, as_json: bool) -> None:
    if as_json:
        return print_json(known)
    rows = [(row["id"], local_time(row["created"]), row["label"]) for row in known["tokens"]]
    OUT.print(table(("id", "created", "for"), rows))
    return print_text(f"another one: lars-agent profile token {name} --new; --revoke ID takes one back")
