"""`lars-agent model`: the base models on this device."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.settings.load import load_settings

if TYPE_CHECKING:
    from lars_agent.models.library import ModelLibrary
from lars_agent.records import to_dict

app = typer.Typer(help="The base models on this device.", no_args_is_help=True)
OUT = Console()


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")],
) -> None:
    """Install a base model."""
    model = _library().pull(reference, lambda words: OUT.print(words, highlight=False))
    OUT.print(f"{model.name} in {model.folder}", highlight=False)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The installed models, the one in use marked."""
    library = _library()
    models, current = library.list(), library.current()
    if as_json:
        sys.stdout.write(json.dumps([to_dict(model) for model in models], indent=2) + "\n")
        return
    table = Table("", "name", "reference", "MiB", "sha256")
    for model in models:
        mark = "*" if current is not None and model.name == current.name else ""
        table.add_row(mark, model.name, model.reference, f"{model.bytes / 2**20:,.0f}", model.sha256[:12])
    OUT.print(table)


@app.command()
def use(name: str) -> None:
    """Use an installed model from the daemon's next start on."""
    OUT.print(f"the daemon's next start uses {_library().use(name).name}")


def _library() -> ModelLibrary:
    from lars_agent.models.library import ModelLibrary  # torch comes with it

    return ModelLibrary(load_settings().models_dir)
