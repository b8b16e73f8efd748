"""One pass of housekeeping: removes items past their limits, reports what was removed, and goes on after a failure."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.housekeeping.retention import Id, Item, Limits, expired
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings

log = structlog.get_logger(__name__)


class Closing(Exception):
    """The daemon is closing; the next sweep does the rest."""


@dataclass
class Report:
    """The number of items removed of each kind, the bytes this freed, and the number of `failures`.

    Attributes:
        jobs: records of jobs.
        job_folders: directories of jobs, and of no job.
        leftovers: job directories whose checkpoints and temporary files were removed.
        examples: lines of job directories whose feedback was deleted.
        files: uploaded files that no profile has taken up.
    """

    interactions: int = 0
    jobs: int = 0
    scheduled_runs: int = 0
    job_folders: int = 0
    leftovers: int = 0
    adapters: int = 0
    examples: int = 0
    files: int = 0
    freed_bytes: int = 0
    failures: int = 0

    def add(self, kind: str, freed_bytes: int, count: int = 1) -> None:
        """Count removed items in the field `kind`."""
        setattr(self, kind, getattr(self, kind) + count)
        self.freed_bytes += freed_bytes


@dataclass
class Sweep:
    """The parts that a sweep works with, and its report; `is_idle` tells whether nobody is disturbed by work now."""

    settings: Settings
    db: Database
    store: AdapterStore
    switch: AdapterSwitch
    now: datetime
    closing: threading.Event
    is_idle: Callable[[], bool]
    report: Report = field(default_factory=Report)

    @contextlib.contextmanager
    def step(self, kind: str, **names: object) -> Iterator[None]:
        """Log and count an error of the block, and go on. Raises Closing before the block if the daemon is closing."""
        if self.closing.is_set():
            raise Closing
        try:
            yield
        except Closing:
            raise
        except Exception as error:
            self.report.failures += 1
            unexpected = not isinstance(error, LarsError | OSError)
            log.warning("housekeeping_failed", step=kind, **names, error=repr(error), exc_info=unexpected)

    def remove_expired(
        self, kind: str, items: Iterable[Item[Id]], limits: Limits, remove: Callable[[Id], object]
    ) -> None:
        """Remove the items that `limits` no longer keep and report them as `kind`; one that fails stays."""
        with self.step(kind):
            found = list(items)
            sizes = {item.id: item.bytes for item in found}
            for key in expired(found, limits, self.now):
                with self.step(kind, item=key):
                    remove(key)
                    self.report.add(kind, sizes[key])


def taken_bytes(*paths: Path) -> int:
    """Return the size of the files, and of all files in the folders; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for file in _files(path):
            with contextlib.suppress(OSError):  # it may have been removed meanwhile
                stat = file.lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def discard(*paths: Path) -> None:
    """Remove the files and folders, of a link only the link; one that is missing is no error."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
