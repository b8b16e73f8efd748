"""The daemon's parts, started and stopped in order."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from lars_agent.errors import LarsError
from lars_agent.files import make_folder
from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.housekeeping import Housekeeper
from service.jobs import Supervisor
from service.schedule import Nightly
from service.serving import Serving
from service.settings import Settings

LOCK_NAME = "daemon.lock"


class DataInUse(LarsError):
    """Another daemon works with this data folder."""


class DataLock:
    """Held by the one daemon that works with a data folder. The kernel releases it when the process ends, however."""

    def __init__(self, folder: Path) -> None:
        self._file = (make_folder(folder) / LOCK_NAME).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise DataInUse(
                f"another daemon (process {holder}) works with {folder}; stop it, or set data_dir"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Another daemon may work with the folder."""
        self._file.close()


@dataclass
class Daemon:
    """What request handlers reach through `app.state.daemon`; composed by `service.app.compose`."""

    settings: Settings
    lock: DataLock
    db: Database
    store: AdapterStore
    serving: Serving
    supervisor: Supervisor
    schedule: Nightly
    housekeeper: Housekeeper
    _started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """The model is being loaded; jobs are recovered and nights come as soon as it replies."""
        self.serving.start(on_busy=self.supervisor.yield_to_requests, when_ready=self._begin_work)

    def close(self) -> None:
        """Nothing runs any more; a job that did has a checkpoint and is run on at the next start."""
        self.serving.halt()
        self.schedule.close()
        self.housekeeper.close()
        self.supervisor.close()
        self.serving.close()
        self.db.close()
        self.lock.release()

    def uptime_s(self) -> float:
        """Seconds since the daemon was composed."""
        return time.monotonic() - self._started

    def _begin_work(self) -> None:
        self.supervisor.recover()
        self.schedule.start()
        self.housekeeper.start()
