"""`lars-agent model`: the base models on this device."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lars_agent.errors import ConfigError
from lars_agent.records import to_dict
from service.cli.output import OUT, Json, print_json, print_text, table
from service.settings.load import load_settings

if TYPE_CHECKING:
    from lars_agent.models.library import ModelLibrary

SIZES = ("download_bytes", "disk_bytes", "serving_bytes", "training_bytes", "least_training_bytes")

app = typer.Typer(help="Manage the base models on this device.", no_args_is_help=True)


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")],
) -> None:
    """Install a base model."""
    model = _own_library().pull(reference, print_text)
    print_text(f"{model.name} in {model.folder}")


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")],
    as_json: Json = False,
) -> None:
    """Predict what a model needs before it is fetched: network, disk, memory for replies and for training."""
    from lars_agent.planning.preview import preview  # imports torch

    settings = load_settings()
    found = asdict(preview(reference, settings.model.dtype, settings.memory.budget_bytes))
    if as_json:
        return print_json(found)
    rows = [(name.removesuffix("_bytes").replace("_", " "), f"{found[name] / 2**20:,.0f}") for name in SIZES]
    OUT.print(table((found["name"], "MiB"), rows, right=[1]))
    does = "allows" if found["fits"] else "does not allow"
    return print_text(f"memory.budget_bytes {does} training it")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the installed models and mark the one in use."""
    library = _library()
    models, current = library.list(), library.current()
    name_in_use = None if current is None else current.name
    if as_json:
        return print_json([to_dict(model) for model in models])
    rows = (
        (
            "*" if model.name == name_in_use else "",
            model.name,
            model.reference,
            f"{model.bytes / 2**20:,.0f}",
            model.sha256[:12],
        )
        for model in models
    )
    return OUT.print(table(("", "name", "reference", "MiB", "sha256"), rows))


@app.command()
def use(name: str) -> None:
    """Use an installed model from the daemon's next start on."""
    print_text(f"the daemon uses {_own_library().use(name).name} from its next start on")


def _own_library() -> ModelLibrary:
    """Return the library to write to. Raises ConfigError for root in another user's, who could not read the files."""
    data_dir = load_settings().data_dir
    if os.geteuid() == 0 and data_dir.exists() and (owner := data_dir.stat().st_uid) != 0:
        raise ConfigError(f"{data_dir} belongs to another user; run this as that one, with: sudo -u '#{owner}' ...")
    return _library()


def _library() -> ModelLibrary:
    from lars_agent.models.library import ModelLibrary  # imports torch

    return ModelLibrary(load_settings().models_dir)
