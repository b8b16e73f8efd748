"""Uploaded files: rows of feedback that are nobody's until a profile takes them up, so that no text is there twice."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, delete, select, update

from service.db.base import Records
from service.db.engine import reading, writing
from service.db.errors import FileNotFound
from service.db.feedback import Feedback
from service.db.known import KnownFeedback
from service.db.records import FeedbackRecord, FileRecord
from service.db.tables import NOBODY, files, stored_feedback

PAGE_ROWS = 200


class Files(Records[FileRecord]):
    """The uploaded files of the database behind `feedback`; `Imports.store` adds them, `Erasures.file` deletes them."""

    table, record, not_found = files, FileRecord, FileNotFound

    def __init__(self, feedback: Feedback) -> None:
        super().__init__(feedback._engine)
        self._feedback = feedback

    def list(self, limit: int, after: str | None = None, *, oldest_first: bool = False) -> builtins.list[FileRecord]:
        """Return the latest files, or the oldest ones; `after` is the id of the last one already seen."""
        if not oldest_first:
            return self._latest(limit, after)
        query = select(files).order_by(files.c.seq).limit(limit)
        if after is not None:
            query = query.where(files.c.seq > select(files.c.seq).where(files.c.id == after).scalar_subquery())
        return self._read(query)

    def each(self, file_id: str) -> Iterator[FeedbackRecord]:
        """Yield the feedback in the file in its order, also what is nobody's; none if there is no such file."""
        for page in self._pages(file_id):
            yield from map(self._feedback._record, page)

    def take_up(self, file_id: str, profile: str) -> int:
        """Make the file's feedback the profile's, all at once; return the number of pieces.

        What the profile has already stays nobody's, until a later call finds it gone. Raises FileNotFound.
        """
        file = self.get(file_id)
        assert file.profile in (None, profile), "a file is one profile's"
        known, count = KnownFeedback(self._feedback, profile), 0
        try:
            for page in self._pages(file_id):
                free = [row for row in page if file.profile is None or row["profile"] == NOBODY]
                count += self._give(profile, [row["seq"] for row in free if not known.has(self._feedback._record(row))])
                self._give(NOBODY, [row["seq"] for row in free if known.has(self._feedback._record(row))])
        finally:
            known.close()
        with writing(self._engine) as connection:
            connection.execute(update(files).where(files.c.id == file_id).values(profile=profile, expires=None))
        return count

    def remove_unused(self, now: datetime) -> int:
        """Remove the files that no profile has taken up in their time; return their number."""
        query = select(files.c.id).where(files.c.profile.is_(None), files.c.expires <= now)
        with reading(self._engine) as connection:
            gone = list(connection.scalars(query))
        for file_id in gone:
            self.delete(file_id)
        return len(gone)

    def delete(self, file_id: str) -> builtins.list[str]:
        """Delete the file with the feedback in it, of which no version may have learned; return the ids."""
        ids = list[str]()
        batch = select(stored_feedback.c.id).where(stored_feedback.c.file == file_id).limit(PAGE_ROWS)
        while True:
            with writing(self._engine) as connection:
                page = list(connection.scalars(batch))
                connection.execute(delete(stored_feedback).where(stored_feedback.c.id.in_(page)))
                if not page:
                    connection.execute(delete(files).where(files.c.id == file_id))
                    return ids
            ids += page

    def _give(self, profile: str, rows: Sequence[int]) -> int:
        with writing(self._engine) as connection:
            taken = update(stored_feedback).where(stored_feedback.c.seq.in_(rows)).values(profile=profile)
            return connection.execute(taken).rowcount if rows else 0

    def _pages(self, file_id: str) -> Iterator[Sequence[RowMapping]]:
        last = 0
        while True:
            query = select(stored_feedback).where(stored_feedback.c.file == file_id, stored_feedback.c.seq > last)
            with reading(self._engine) as connection:
                page = connection.execute(query.order_by(stored_feedback.c.seq).limit(PAGE_ROWS)).mappings().all()
            if not page:
                return
            yield page
            last = page[-1]["seq"]
