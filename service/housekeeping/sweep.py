"""A round of housekeeping: what it works with, what it has done, and how it goes on where one thing fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from lars_agent.errors import LarsError
from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings

log = structlog.get_logger(__name__)


class Closing(Exception):
    """The daemon is closing; what is left is done in the next round."""


@dataclass
class Report:
    """What a round has removed, and how many bytes that freed; `failures` are things that could not be done.

    Attributes:
        jobs: records of jobs.
        scheduled_runs: records of them.
        job_folders: directories of jobs, and of no job.
        leftovers: job directories whose checkpoints and temporary files are gone.
        examples: lines of job directories whose feedback was deleted.
    """

    interactions: int = 0
    jobs: int = 0
    scheduled_runs: int = 0
    job_folders: int = 0
    leftovers: int = 0
    adapters: int = 0
    examples: int = 0
    freed_bytes: int = 0
    failures: int = 0


@dataclass
class Round:
    """What one round works with."""

    settings: Settings
    db: Database
    store: AdapterStore
    switch: AdapterSwitch
    now: datetime
    closing: threading.Event = field(default_factory=threading.Event)
    report: Report = field(default_factory=Report)

    @contextmanager
    def going_on(self, step: str, **names: object) -> Iterator[None]:
        """What fails within the block is logged and counted, and the round goes on. Raises Closing before the block."""
        if self.closing.is_set():
            raise Closing
        try:
            yield
        except Closing:
            raise
        except Exception as error:
            self.report.failures += 1
            unexpected = not isinstance(error, LarsError | OSError)
            log.warning("housekeeping_failed", step=step, **names, error=repr(error), exc_info=unexpected)
