"""`lars-agent sessions`: the browsers that were let in."""

from __future__ import annotations

import typer

from service.cli.client import Client, path_of
from service.cli.options import Id, Noun, Url
from service.cli.output import OUT, Json, local_time, print_json, print_result, print_text, table

app = typer.Typer(cls=Noun, help="List the browsers that were let in, and end their sessions.")


@app.command("list")
def list_(url: Url = None, as_json: Json = False) -> None:
    """List the browsers of other devices that were let in with the token or a link."""
    found = Client(url).get("/sessions")["sessions"]
    if as_json:
        return print_json(found)
    if not found:
        return print_text("no sessions")
    rows = [(one["id"], one["client"], local_time(one["created"]), local_time(one["last_used"])) for one in found]
    return OUT.print(table(("id", "browser", "created", "last used"), rows))


@app.command()
def end(session_id: Id, url: Url = None, as_json: Json = False) -> None:
    """End a session; its browser needs the token or a new link to get in again."""
    Client(url).delete(path_of("sessions", session_id))
    print_result({"ended": session_id}, f"ended {session_id}", as_json)
