"""`lars-agent support-bundle`: facts for somebody who helps, in one file, without a word that anybody wrote."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import Client
from service.cli.doctor import examine
from service.cli.options import Url
from service.cli.output import Json, print_json, print_text
from service.settings.load import Layer, Settings, SettingsSource, settings_of


def support_bundle(
    file: Annotated[Path | None, typer.Argument(help="The zip file to make; by default a new one here.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write facts about this device into FILE for somebody who helps: no texts, names, paths, tokens or ids."""
    from service.support.bundle import members, write_bundle  # imports the database's libraries

    target = file or Path(f"lars-agent-support-{datetime.now().astimezone():%Y%m%d-%H%M%S}.zip")
    content = dict(
        members(
            _load,
            lambda: ((found.name, found.good) for found in examine(url)),
            lambda: Client(url).lines("/metrics"),
        )
    )
    write_bundle(target, content)
    if as_json:
        return print_json({"file": str(target), "members": {name: len(text) for name, text in content.items()}})
    print_text(f"wrote {target}, which only you may read:")
    for name, text in content.items():
        print_text(f"  {name:15}{len(text):>8,} characters")
    return print_text("It is made of numbers, times and words of lars-agent's own. Look into it before you send it.")


def _load() -> tuple[Settings, list[Layer]]:
    layers = SettingsSource().layers()
    return settings_of(layers), layers
