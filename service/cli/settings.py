"""`lars-agent settings`: the daemon's settings, and changing them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from service.cli.client import ApiError, Client
from service.cli.options import Url
from service.cli.output import OUT, Json, print_json, print_text, table


def settings(
    key: Annotated[str | None, typer.Argument(help="Such as schedule.cron; all that differ from the default.")] = None,
    value: Annotated[str | None, typer.Argument(help="The new value: text, a number, true, false, or JSON.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take the change of KEY back.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the daemon's settings, or set KEY to VALUE; what does not apply at once applies at the next start."""
    client = Client(url)
    if reset or value is not None:
        if key is None or (reset and value is not None):
            raise typer.BadParameter("give a KEY, and either a VALUE or --reset")
        found = client.patch("/settings", {key: None if reset else _parsed(value or "")})["settings"]
    else:
        found = client.get("/settings")["settings"]
    if key is None:
        chosen = [one for one in found if one["origin"] is not None]
    else:
        chosen = [one for one in found if one["key"] == key]
        if not chosen:
            raise ApiError(f"{key!r} is no setting; lars-agent settings --json lists those that are set")
    if as_json:
        return print_json(chosen)
    if key is None:
        rows = [(one["key"], _shown(one), one["origin"]) for one in chosen]
        return OUT.print(table(("key", "value", "set by"), rows) if rows else "every setting has its default")
    (one,) = chosen
    waits = "; it applies at the next start" if one["is_waiting"] else ""
    return print_text(f"{key} = {_shown(one)} ({one['origin'] or 'the default'}{waits})\n{one['description']}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(setting: dict[str, Any]) -> str:
    value = setting["value"]
    return value if isinstance(value, str) else json.dumps(value)
