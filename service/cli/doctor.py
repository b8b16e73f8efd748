"""`lars-agent doctor`: checks of this device, and what to do about a failed one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import typer
from httpx import InvalidURL

from lars_agent.errors import LarsError
from lars_agent.memory.allocator import thrifty_environment
from service.cli.client import ApiError, Client
from service.cli.options import Url
from service.cli.output import Json, print_json, print_text
from service.process.private_files import wider_than_private
from service.settings.load import Settings, load_settings

LATE = timedelta(days=1)  # that a backup may be, on a device that sleeps
MIN_FREE_BYTES = 1_000_000_000  # the default model, a job's checkpoints and some versions


@dataclass(frozen=True)
class Finding:
    """The result of a check; `words` say what was found and, if the check failed, what to do."""

    name: str
    good: bool
    words: str


def doctor(url: Url = None, as_json: Json = False) -> None:
    """Check settings, disk, memory, model and daemon; exit 1 if a check fails."""
    findings = list(examine(url))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for found in findings:
            print_text(f"{'ok   ' if found.good else 'WRONG'} {found.name:9}{found.words}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def examine(url: str | None = None) -> Iterator[Finding]:
    """Yield the result of every check; only the first one if the settings cannot be read.

    The daemon is the one at `url`, by default the one that the settings describe; all else is about this device.
    """
    try:
        settings = load_settings()
    except LarsError as error:
        yield Finding("settings", False, str(error))
        return
    yield Finding("settings", True, f"data in {settings.data_dir}, port {settings.server.port}")
    checks: tuple[Callable[[Settings], str], ...] = (disk, access, memory, model, backup)
    yield from (_finding(check.__name__, partial(check, settings)) for check in checks)
    yield _finding("daemon", partial(daemon, url))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (LarsError, ApiError, OSError, InvalidURL) as error:
        return Finding(name, False, str(error))


def disk(settings: Settings) -> str:
    """Check the data folder's disk. Raises LarsError if it cannot be written to or is too full."""
    wanted = settings.data_dir.absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LarsError(f"{folder} cannot be written to; change its owner, or set data_dir")
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise LarsError(f"{free:,} bytes are free on the disk of {folder}; {MIN_FREE_BYTES:,} are needed")
    return f"{free / 2**30:,.1f} GiB free"


def access(settings: Settings) -> str:
    """Check that others cannot read what was said, or what was learned from it. Raises LarsError."""
    folder = settings.data_dir
    if not folder.exists():
        return f"{folder} is not there yet"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"only its owner may look into {folder}"
    found = list(wider_than_private(folder))
    if found:
        path, mode = found[0]
        raise LarsError(
            f"{len(found)} files and folders in {folder} are open to other users of this device, such as "
            f"{path} ({mode & 0o777:04o}); lars-agent closes those that it owns when it starts"
        )
    return f"only its owner may read {folder}"


def memory(settings: Settings) -> str:
    """Check that the device has the memory that training may use. Raises LarsError."""
    budget, total = settings.memory.budget_bytes, psutil.virtual_memory().total
    if budget > total:
        raise LarsError(f"memory.budget_bytes is {budget:,}, but the device has {total:,}; lower it")
    with_jemalloc = "LD_PRELOAD" in thrifty_environment({})
    advice = "" if with_jemalloc else "; training would be faster with jemalloc (on Debian: apt install libjemalloc2)"
    return f"a budget of {budget / 2**30:.2f} GiB of {total / 2**30:.2f} GiB{advice}"


def model(settings: Settings) -> str:
    """Check the base model's hash. Raises LarsError if it is missing or has changed."""
    from lars_agent.models.library import ModelLibrary  # imports torch

    library = ModelLibrary(settings.models_dir)
    chosen = library.current() if settings.model.name == "default" else None
    installed = library.verify(settings.model.name if chosen is None else chosen.name)
    return f"{installed.name}, its sha256 is the recorded one"


def backup(settings: Settings) -> str:
    """Check that backups are made, where the settings ask for them. Raises LarsError."""
    from service.backup.folder import REASONS, backups_in, device_of
    from service.backup.nightly import due

    if settings.backup.folder is None:
        return "none is made at night; set backup.folder"
    folder, now = Path(settings.backup.folder), datetime.now(UTC)
    found = backups_in(folder, device_of(settings.data_dir))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LarsError(f"the folder for backups {folder} {REASONS[errno.EACCES]}")
    if now - due(settings, found, now) > LATE or not found:
        newest = f"the newest is of {found[0].created:%Y-%m-%d %H:%M} UTC" if found else "there is none yet"
        raise LarsError(
            f"a backup is due in {folder}, and {newest}; is the daemon running? lars-agent backup makes one"
        )
    return f"the newest is of {found[0].created:%Y-%m-%d %H:%M} UTC, in {folder}"


def daemon(url: str | None) -> str:
    """Check that a daemon answers and its adapters are intact. Raises ApiError, LarsError."""
    client = Client(url)
    info = client.get("/info")
    for profile in info["serving"]:
        for version, message in client.get("/adapters", profile=profile, verify="true")["problems"].items():
            raise LarsError(f"{profile}@{version}: {message}")
    if info["loading_error"]:
        raise LarsError(info["loading_error"])
    if problem := client.get("/backups")["problem"]:
        raise LarsError(problem)
    return f"answers at {client.url}"
