"""The daemon's database: one SQLite file. Rows never leave this package; records do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from service.db.engine import compact, create, empty_log, page_bytes
from service.db.erasures import Erasures
from service.db.feedback import Feedback
from service.db.files import Files
from service.db.imports import Imports
from service.db.interactions import Interactions
from service.db.jobs import Jobs
from service.db.migrate import migrate
from service.db.newest import newest
from service.db.recall import RecallIndex
from service.db.records import now_utc
from service.db.scheduled_runs import ScheduledRuns
from service.db.sessions import Sessions

__all__ = ["Database"]


class Database:
    """The database in the file `path`, which is created or migrated; `now` is the clock of what is recorded.

    Raises DatabaseTooNew (and leaves the file as it is), DatabaseUnusable, DatabaseBusy, DiskFull.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = now_utc) -> None:
        migrate(path)
        self.path, self.now = path, now
        self.engine = create(path, now)
        self.interactions = Interactions(self.engine)
        self.feedback = Feedback(self.engine)
        self.imports = Imports(self.engine)
        self.files = Files(self.feedback)
        self.erasures = Erasures(self.engine)
        self.jobs = Jobs(self.engine)
        self.scheduled_runs = ScheduledRuns(self.engine)
        self.sessions = Sessions(self.engine)
        self.recall = RecallIndex(self.feedback)

    def newest(self, until: datetime | None = None) -> datetime | None:
        """Return the time of the newest record; see `service.db.newest.newest`."""
        return newest(self.engine, until)

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
        self.engine.dispose()
