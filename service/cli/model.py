"""`lars-agent model`: the base models on this device."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lars_agent.errors import ConfigError
from lars_agent.records import to_dict
from service.cli.client import ApiError, Client, path_of
from service.cli.options import Noun, Url
from service.cli.output import ERR, OUT, Json, print_json, print_result, print_text, table
from service.process.data_lock import DataInUse, DataLock
from service.settings.load import Settings, load_settings

if TYPE_CHECKING:
    from lars_agent.models.library import InstalledModel, ModelLibrary
    from service.db.records import JobRecord

SIZES = ("download_bytes", "disk_bytes", "serving_bytes", "training_bytes", "least_training_bytes")

app = typer.Typer(cls=Noun, help="List, fetch, choose and remove the base models on this device.")


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")],
    as_json: Json = False,
) -> None:
    """Install a base model."""
    model = _own_library().pull(reference, (lambda text: print_text(text, ERR)) if as_json else print_text)
    print_result(to_dict(model), f"{model.name} in {model.folder}", as_json)


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
    """List the installed models and mark the one in use: the one that the daemon starts with."""
    from service.serving.model_removal import chosen_model  # imports torch

    library = _library()
    models, chosen = library.list(), chosen_model(library, load_settings().model.name)
    name_in_use = None if chosen is None else chosen.name
    if as_json:
        return print_json([{**to_dict(model), "in_use": model.name == name_in_use} for model in models])
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
def use(
    name: Annotated[str, typer.Argument(help="As `list` shows it.")],
    as_json: Json = False,
) -> None:
    """Use an installed model from the daemon's next start on."""
    model = _own_library().use(name)
    print_result(to_dict(model), f"the daemon uses {model.name} from its next start on", as_json)


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="As `list` shows it.")], url: Url = None, as_json: Json = False
) -> None:
    """Remove an installed model; not the one in use, nor one that a job needs. Adapters made for it are kept."""
    library, settings = _own_library(), load_settings()
    library.sweep()
    model = library.get(name)
    try:
        lock = DataLock(settings.data_dir)
    except DataInUse as error:
        freed = _removed_by_daemon(Client(url), model, str(error))
    else:
        try:
            freed = _removed_here(library, model, settings)
        finally:
            lock.release()
    print_result(
        {"name": model.name, "freed_bytes": freed}, f"removed {model.name}; {freed:,} bytes are free again", as_json
    )


def _removed_by_daemon(client: Client, model: InstalledModel, lock_holder: str) -> int:
    """Have the daemon that works with this folder remove the model. Raises ApiError if another one answers."""
    known = [(found["name"], found["installed"]) for found in client.get("/models")["models"]]
    if (model.name, model.installed) not in known:
        raise ApiError(f"{lock_holder}; at {client.url} answers yet another one: give the right --url")
    return int(client.delete(path_of("models", model.name))["freed_bytes"])


def _removed_here(library: ModelLibrary, model: InstalledModel, settings: Settings) -> int:
    """Remove the model while no daemon works with this folder."""
    from service.db import Database
    from service.serving.model_removal import remove_model

    jobs: list[JobRecord] = []
    if settings.database_path.exists():
        with closing(Database(settings.database_path)) as database:
            jobs = database.jobs.unfinished()
    return remove_model(library, model.name, settings.model.name, None, jobs)


def _own_library() -> ModelLibrary:
    """Return the library to write to. Raises ConfigError for root in another user's, who could not read the files."""
    data_dir = load_settings().data_dir
    if os.geteuid() == 0 and data_dir.exists() and (owner := data_dir.stat().st_uid) != 0:
        raise ConfigError(f"{data_dir} belongs to another user; run this as that one, with: sudo -u '#{owner}' ...")
    return _library()


def _library() -> ModelLibrary:
    from lars_agent.models.library import ModelLibrary  # imports torch

    return ModelLibrary(load_settings().models_dir)
