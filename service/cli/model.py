"""`lars-agent model`: the base models on this device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lars_agent.errors import ConfigError, ModelNotFound, ModelUnsupported
from lars_agent.models.hub import transferred
from lars_agent.records import to_dict
from service.cli.output import OUT, Json, print_json, print_text, table
from service.settings.load import load_settings

if TYPE_CHECKING:
    from lars_agent.models.library import ModelLibrary

SIZES = ("download_bytes", "disk_bytes", "serving_bytes", "training_bytes", "least_training_bytes")

Reference = Annotated[str, typer.Argument(help="default, org/name[@revision], a folder or a .gguf file")]

app = typer.Typer(help="Manage the base models on this device.", no_args_is_help=True)


@app.command()
def pull(
    reference: Reference,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the model needs; fetch nothing.")] = False,
    says_needs: Annotated[bool, typer.Option("--preview/--no-preview", help="Say first what the model needs.")] = True,
) -> None:
    """Install a base model; one that was cut off goes on where it was."""
    if dry_run:
        return _print_needs(_needs(reference))
    library = _own_library()
    if says_needs and not _is_installed(library, reference):
        try:
            _print_needs(_needs(reference))
        except ModelUnsupported as error:  # the pull tells, if it is refused: some reply that cannot be planned
            print_text(f"what it needs is not known: {error}")
    with _progress() as on_progress:
        model = library.pull(reference, on_progress)
    return print_text(f"{model.name} in {model.folder}")


@app.command()
def show(reference: Reference, as_json: Json = False) -> None:
    """Predict what a model needs before it is fetched: network, disk, memory for replies and for training."""
    found = _needs(reference)
    return print_json(found) if as_json else _print_needs(found)


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


def _needs(reference: str) -> dict[str, Any]:
    from lars_agent.planning.preview import preview  # imports torch

    settings = load_settings()
    return asdict(preview(reference, settings.model.dtype, settings.memory.budget_bytes))


def _print_needs(found: dict[str, Any]) -> None:
    rows = [(name.removesuffix("_bytes").replace("_", " "), f"{found[name] / 2**20:,.0f}") for name in SIZES]
    OUT.print(table((found["name"], "MiB"), rows, right=[1]))
    print_text(f"memory.budget_bytes {'allows' if found['fits'] else 'does not allow'} training it")


def _is_installed(library: ModelLibrary, reference: str) -> bool:
    try:
        return library.get(reference) is not None
    except ModelNotFound:
        return False


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Provide a function that shows the messages of a pull: on a terminal with a bar, else a line for each percent."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar, said = Progress(*columns, TimeRemainingColumn(), console=OUT), set[tuple[str, int]]()

    def show(message: str) -> None:
        what, (done, total) = message.rpartition(": ")[0], transferred(message) or (0, 0)
        percent = (what, 100 * done // max(total, 1))
        if not total and bar.live.is_started:
            bar.stop()
        elif total and OUT.is_terminal:
            if not bar.tasks:
                bar.add_task(what)
                bar.start()
            return bar.update(bar.task_ids[0], completed=done, total=total)
        elif total and percent in said:
            return None
        said.add(percent)
        return print_text(message)

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
