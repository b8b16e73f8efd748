"""Store many pieces of feedback, all or none, without keeping other writers waiting.

Rows come in batches, under numbers that are reserved beforehand, and none is seen before the last one is there: the
table `imports` names their range, which `service.db.tables.feedback` leaves out. Who dies in between leaves rows that
nobody sees, until the next import or the next round of housekeeping removes them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence

import structlog
from sqlalchemy import Connection, Engine, delete, select, text
from sqlalchemy.dialects.sqlite import insert

from lars_agent.errors import LarsError
from lars_agent.store.names import DEFAULT_PROFILE
from service.db.engine import now_of, reading, writing
from service.db.feedback import key_of
from service.db.records import FileRecord, ImportProgress, NewFeedback, new_id
from service.db.tables import NOBODY, files, imports, stored_feedback

BATCH_ROWS = 500
SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = 'feedback'"

log = structlog.get_logger(__name__)


class Imports:
    """Imports of feedback into the database behind `engine`, one at a time; `progress` is that of the present one."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._running = engine, threading.Lock()
        self.progress: ImportProgress | None = None

    def store(
        self,
        batches: Iterable[Sequence[NewFeedback]],
        count: int,
        is_new: Callable[[NewFeedback], bool] = lambda new: True,
        file: FileRecord | None = None,
    ) -> int:
        """Store those of the `count` pieces of feedback that are new, each with its prompt and reply; return how many.

        Nobody sees any of them before. With a `file` they are nobody's, in that file, which is stored with the last.
        Raises what making a batch raises, DatabaseBusy and DiskFull, and then none is stored.
        """
        with self._running:
            self._remove_unfinished()
            seq, done, stored = self._reserve(count), 0, 0
            try:
                for batch in batches:
                    assert done + len(batch) <= count, "more than was reserved"
                    new = [one for one in batch if is_new(one)]
                    with writing(self._engine) as connection:
                        _insert(connection, seq.start + stored, new, file)
                    done, stored = done + len(batch), stored + len(new)
                    self.progress = ImportProgress(done, count)
                with writing(self._engine) as connection:
                    connection.execute(delete(imports))
                    if file is not None:
                        connection.execute(insert(files), vars(file))
            except BaseException:
                with contextlib.suppress(LarsError):  # a later round removes them
                    self._remove_unfinished()
                raise
            finally:
                self.progress = None
        return stored

    def remove_unfinished(self) -> int:
        """Remove the rows of an import that was interrupted, unless one runs; return their number."""
        if not self._running.acquire(blocking=False):
            return 0
        try:
            return self._remove_unfinished()
        finally:
            self._running.release()

    def _reserve(self, count: int) -> range:
        """Reserve the numbers of so many rows; those that are stored meanwhile come after them."""
        with writing(self._engine) as connection:
            last = connection.scalar(text(SEQUENCE))
            if last is None:
                connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('feedback', 0)"))
                last = 0
            connection.execute(
                text("UPDATE sqlite_sequence SET seq = :seq WHERE name = 'feedback'"), {"seq": last + count}
            )
            connection.execute(insert(imports), {"first": last + 1, "last": last + count})
        return range(last + 1, last + count + 1)

    def _remove_unfinished(self) -> int:
        with reading(self._engine) as connection:
            ranges = connection.execute(select(imports.c.first, imports.c.last)).all()
        removed = 0
        for first, last in ranges:
            left = select(stored_feedback.c.seq).where(stored_feedback.c.seq.between(first, last)).limit(BATCH_ROWS)
            while True:
                with writing(self._engine) as connection:
                    gone = connection.execute(delete(stored_feedback).where(stored_feedback.c.seq.in_(left))).rowcount
                    if not gone:
                        connection.execute(delete(imports).where(imports.c.first == first))
                        break
                removed += gone
        if removed:
            log.info("import_undone", rows=removed)
        return removed


def _insert(connection: Connection, seq: int, batch: Sequence[NewFeedback], file: FileRecord | None) -> None:
    created = now_of(connection)
    rows = [
        {
            "seq": seq + number,
            "id": new_id("f", created),
            "created": created,
            "profile": NOBODY if file else new.profile or DEFAULT_PROFILE,
            "messages": list(new.messages or ()),
            "response": new.response,
            "rating": new.rating,
            "correction": new.correction,
            "comment": new.comment,
            "tags": new.tags,
            "source": new.source,
            "file": file.id if file else None,
            "idempotency_key": None if file else key_of(new),
        }
        for number, new in enumerate(batch)
    ]
    if rows:
        # A key that came in the meantime is there.
        connection.execute(insert(stored_feedback).on_conflict_do_nothing(["idempotency_key"]), rows)
