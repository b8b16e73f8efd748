"""`lars-agent model`: the base models on this device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lars_agent.errors import ConfigError, ModelNotFound, ModelUnsupported
from lars_agent.models.hub import transferred
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

Reference = Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")]

app = typer.Typer(cls=Noun, help="List, fetch, choose and remove the base models on this device.")


@app.command()
def pull(
    reference: Reference,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the model needs; fetch nothing.")] = False,
    says_needs: Annotated[bool, typer.Option("--preview/--no-preview", help="Say first what the model needs.")] = True,
    as_json: Json = False,
) -> None:
    """Install a base model; one that was cut off goes on where it was."""
    if dry_run:
        return show(reference, as_json)
    console = ERR if as_json else OUT
    library = _own_library()
    if says_needs and not _is_installed(library, reference):
        try:
            _print_needs(_needs(reference), console)
        except ModelUnsupported as error:  # the pull tells, if it is refused: some reply that cannot be planned
            print_text(f"what it needs is not known: {error}", console)
    with _progress(console) as on_progress:
        model = library.pull(reference, on_progress)
    return print_result(to_dict(model), f"{model.name} in {model.folder}", as_json)


@app.command()
def show(reference: Reference, as_json: Json = False) -> None:
    """Predict what a model needs before it is fetched: network, disk, memory for replies and for training."""
    found = _needs(reference)
    return print_json(found) if as_json else _print_needs(found, OUT)


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


def _needs(reference: str) -> dict[str, Any]:
    from lars_agent.planning.preview import preview  # imports torch

    settings = load_settings()
    return asdict(preview(reference, settings.model.dtype, settings.memory.budget_bytes))


def _print_needs(found: dict[str, Any], console: Console) -> None:
    rows = [(name.removesuffix("_bytes").replace("_", " "), f"{found[name] / 2**20:,.0f}") for name in SIZES]
    console.print(table((found["name"], "MiB"), rows, right=[1]))
    print_text(f"memory.budget_bytes {'allows' if found['fits'] else 'does not allow'} training it", console)


def _is_installed(library: ModelLibrary, reference: str) -> bool:
    try:
        return library.get(reference) is not None
    except ModelNotFound:
        return False


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Provide a function that shows the messages of a pull: on a terminal with a bar, else a line for each percent."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar, said = Progress(*columns, TimeRemainingColumn(), console=console), set[tuple[str, int]]()

    def show(message: str) -> None:
        what, (done, total) = message.rpartition(": ")[0], transferred(message) or (0, 0)
        percent = (what, 100 * done // max(total, 1))
        if not total and bar.live.is_started:
            bar.stop()
        elif total and console.is_terminal:
            if not bar.tasks:
                bar.add_task(what)
                bar.start()
            return bar.update(bar.task_ids[0], completed=done, total=total)
        elif total and percent in said:
            return None
        said.add(percent)
        return print_text(message, console)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _own_library() -> ModelLibrary:
    """Return the library to write to. Raises ConfigError for root in another user's, who could not read the files."""
    data_dir = load_settings().data_dir
    if os.geteuid() == 0 and data_dir.exists() and (owner := data_dir.stat().st_uid) != 0:
        raise ConfigError(f"{data_dir} belongs to another user; run this as that one, with: sudo -u '#{owner}' ...")
    return _library()


def _library() -> ModelLibrary:
    from lars_agent.models.library import ModelLibrary  # imports torch

    return ModelLibrary(load_settings().models_dir)
