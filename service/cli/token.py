"""`lars-agent token`: let another device in, by a link that works once, or by the token itself."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlsplit

import httpx
import segno
import typer

from lars_agent.errors import ConfigError
from service.cli.client import ApiError, Client
from service.cli.options import Url
from service.cli.output import OUT, Json, local_time, print_json, print_result, print_text
from service.process.access_token import TOKEN_NAME, read_token, write_token
from service.settings.load import load_settings
from service.settings.server import is_loopback

REPLACED = "a new token counts from now on: every browser and every program of other devices has to be let in again"


def token(
    show: Annotated[bool, typer.Option("--show", help="Print the token, for programs on other devices.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Replace the token, which ends every session.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a link, also as a QR code, with which another device opens the pages once; or show or replace the token."""
    if show and new:
        raise typer.BadParameter("give --show or --new, not both")
    if show or new:
        value, words = (_replace(), REPLACED) if new else (_read(url), "")
        return print_result({"token": value}, words or value, as_json)
    made = Client(url).post("/session/links")
    if as_json:
        return print_json(made)
    if not made["urls"]:
        raise ApiError("the daemon does not know by which address other devices reach it; set server.external_url")
    print_text("Open this link on the other device, or point its camera at it:\n")
    for link in made["urls"]:
        print_text(f"  {link}")
    if sys.stdout.isatty():
        OUT.line()
        segno.make(made["urls"][0], micro=False).terminal(sys.stdout, compact=True)
    print_text(f"\nIt works once, until {local_time(made['expires'])}. lars-agent sessions lists who was let in.")
    return None


def _read(url: str | None) -> str:
    """Return the token that the daemon asks for. Raises ConfigError, ApiError."""
    settings = load_settings()
    if settings.server.token is not None:
        return settings.server.token.get_secret_value()
    if url is not None and not is_loopback(urlsplit(url).hostname or ""):
        raise ConfigError(f"the token of {url} is on that device; run lars-agent token --show there")
    _require_file(url)
    return read_token(settings.data_dir / TOKEN_NAME, make=True)


def _replace() -> str:
    settings = load_settings()
    if settings.server.token is not None:
        raise ConfigError("server.token is set in the settings; change it there, and start the daemon again")
    _require_file(None)
    return write_token(settings.data_dir / TOKEN_NAME)


def _require_file(url: str | None) -> None:
    """Raise ApiError if a daemon runs whose token is that of settings which this command does not see."""
    try:
        Client(url).get("/sessions")
    except ApiError as error:
        if error.status == httpx.codes.UNAUTHORIZED:
            raise
