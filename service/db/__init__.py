"""The daemon's database: one SQLite file. Rows never leave this package; records do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from service.db.engine import compact, create, empty_log, page_bytes
from service.db.erasures import Erasures
from service.db.feedback import Feedback
from service.db.files import Files
from service.db.imports import Imports
from service.db.interactions import Interactions
from service.db.jobs import Jobs
from service.db.migrate import migrate
from service.db.newest import newest
from service.db.own_rows import create_own
from service.db.profile_tokens import ProfileTokens
from service.db.recall import RecallIndex
from service.db.records import now_utc
from service.db.scheduled_runs import ScheduledRuns
from service.db.sessions import Sessions
from service.db.waiting import waiting

__all__ = ["Database"]


class Database:
    """The database in the file `path`, which is created or migrated; `now` is the clock of what is recorded.

    Raises DatabaseTooNew (and leaves the file as it is), DatabaseUnusable, DatabaseBusy, DiskFull.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = now_utc) -> None:
        migrate(path)
        self.path, self.now = path, now
        self._open(create(path, now))
        self.imports = Imports(self.engine)
        self.sessions = Sessions(self.engine)
        self.recall = RecallIndex(self.feedback)
        self.profile_tokens = ProfileTokens(self.engine)
        self._own: dict[str, OwnDatabase] = {}
        self._opening = threading.Lock()

    def _open(self, engine: Engine, profile: str | None = None) -> None:
        self.engine = engine
        self.interactions = Interactions(engine)
        self.feedback = Feedback(engine)
        self.files = Files(self.feedback)
        self.erasures = Erasures(engine, profile)
        self.jobs = Jobs(engine)
        self.scheduled_runs = ScheduledRuns(engine)

    def of(self, profile: str) -> Database:
        """Return the database as a profile sees it, to whom the rows of others do not exist."""
        with self._opening:
            if profile not in self._own:
                self._own[profile] = OwnDatabase(self, profile)
            return self._own[profile]

    def newest(self, until: datetime | None = None) -> datetime | None:
        """Return the time of the newest record; see `service.db.newest.newest`."""
        return newest(self.engine, until)

    def waiting(self) -> tuple[int, datetime | None]:
        """Return number and oldest time of the feedback that waits; see `service.db.waiting.waiting`."""
        return waiting(self.engine)

    def empty_log(self) -> bool:
        """Truncate the write-ahead log; see `service.db.engine.empty_log`."""
        return empty_log(self.engine)

    def compact(self) -> None:
        """Write the file anew, without free pages; see `service.db.engine.compact`."""
        compact(self.engine)

    def page_bytes(self) -> tuple[int, int]:
        """Return the size of the file, and how much of it are free pages."""
        return page_bytes(self.engine)

    def close(self) -> None:
        """Close every connection."""
        self.recall.close()
        for own in self._own.values():
            own.engine.dispose()
        self.engine.dispose()


class OwnDatabase(Database):
    """The rows of one profile in the database `whole`; see `service.db.own_rows`."""

    def __init__(self, whole: Database, profile: str) -> None:
        self.path, self.now = whole.path, whole.now
        self._open(create_own(whole.engine, profile), profile)
        self.imports, self.recall = whole.imports, whole.recall  # which are told the profile
