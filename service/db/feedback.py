"""What people said about replies, and what can be learned from it."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, delete, func, insert, select

from lars_agent.example import Example
from lars_agent.store.names import DEFAULT_PROFILE
from service.db.engine import reading, writing
from service.db.errors import FeedbackNotFound, IdempotencyConflict
from service.db.interactions import missing as missing_interaction
from service.db.records import (
    APPROVED_WEIGHT,
    LEARNED_WEIGHT,
    FeedbackRecord,
    NewFeedback,
    new_id,
    now_utc,
)
from service.db.tables import feedback, interactions

PAGE_ROWS = 200
PRIVATE_COLUMNS = ("seq", "idempotency_key", "request_sha256")


class Feedback:
    """The feedback of the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, new: NewFeedback, *, idempotency_key: str | None = None) -> tuple[FeedbackRecord, bool]:
        """The stored feedback, on the disk, and whether it was stored just now.

        The same key with the same words gives the feedback stored before. Raises InteractionNotFound, and
        IdempotencyConflict for a key used with other words.
        """
        with writing(self._engine) as connection:
            if idempotency_key is not None and (earlier := _find_key(connection, idempotency_key, new)):
                return earlier, False
            return _insert(connection, new, idempotency_key), True

    def add_many(self, news: Sequence[NewFeedback]) -> builtins.list[FeedbackRecord]:
        """All of them are stored, or, when one cannot be, none. Raises InteractionNotFound."""
        with writing(self._engine) as connection:
            return [_insert(connection, new, None) for new in news]

    def get(self, feedback_id: str) -> FeedbackRecord:
        """One feedback. Raises FeedbackNotFound."""
        with reading(self._engine) as connection:
            row = connection.execute(select(feedback).where(feedback.c.id == feedback_id)).mappings().first()
        if row is None:
            raise _missing(feedback_id)
        return _record(row)

    def list(
        self,
        profile: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        *,
        tag: str | None = None,
        after: str | None = None,
    ) -> builtins.list[FeedbackRecord]:
        """The latest feedback, newest first, given before a moment; `after` is the id of the last one already seen."""
        query = select(feedback).where(*_filters(profile, before, tag)).order_by(feedback.c.seq.desc()).limit(limit)
        if after is not None:
            seen = select(feedback.c.seq).where(feedback.c.id == after).scalar_subquery()
            query = query.where(feedback.c.seq < seen)
        with reading(self._engine) as connection:
            return [_record(row) for row in connection.execute(query).mappings()]

    def each(self, profile: str | None = None, tag: str | None = None) -> Iterator[FeedbackRecord]:
        """Every feedback, oldest first; read a page at a time, so any number fits in memory."""
        last = 0
        while True:
            query = select(feedback).where(feedback.c.seq > last, *_filters(profile, None, tag))
            with reading(self._engine) as connection:
                rows = connection.execute(query.order_by(feedback.c.seq).limit(PAGE_ROWS)).mappings().all()
            yield from map(_record, rows)
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1]["seq"]

    def known(self, feedback_ids: Collection[str]) -> set[str]:
        """Those of the ids that are here."""
        wanted, found = sorted(feedback_ids), set[str]()
        for start in range(0, len(wanted), PAGE_ROWS):
            query = select(feedback.c.id).where(feedback.c.id.in_(wanted[start : start + PAGE_ROWS]))
            with reading(self._engine) as connection:
                found.update(connection.scalars(query))
        return found

    def counts(self, profile: str | None = None) -> dict[str, int]:
        """How many there are: `total`, of which `corrections`, `liked` and `disliked`."""
        query = select(
            func.count().label("total"),
            func.count(feedback.c.correction).label("corrections"),
            func.count().filter(feedback.c.rating > 0).label("liked"),
            func.count().filter(feedback.c.rating <= 0).label("disliked"),
        ).where(*_filters(profile, None, None))
        with reading(self._engine) as connection:
            return dict(connection.execute(query).mappings().one())

    def profiles(self) -> builtins.list[str]:
        """Every profile that has feedback."""
        with reading(self._engine) as connection:
            return builtins.list(connection.scalars(select(feedback.c.profile).distinct().order_by(feedback.c.profile)))

    def has_profile(self, profile: str) -> bool:
        """Return whether the profile has feedback."""
        query = select(feedback.c.seq).where(feedback.c.profile == profile).limit(1)
        with reading(self._engine) as connection:
            return connection.scalar(query) is not None

    def delete(self, feedback_id: str) -> None:
        """The feedback is gone. Raises FeedbackNotFound."""
        with writing(self._engine) as connection:
            if not connection.execute(delete(feedback).where(feedback.c.id == feedback_id)).rowcount:
                raise _missing(feedback_id)

    def delete_where(
        self, *, profile: str | None = None, before: datetime | None = None, tag: str | None = None
    ) -> int:
        """How many were deleted: all that match every filter given. At least one must be."""
        conditions = _filters(profile, before, tag)
        assert conditions, "deleting everything needs at least one filter"
        with writing(self._engine) as connection:
            return connection.execute(delete(feedback).where(*conditions)).rowcount

    def examples(self, profile: str) -> builtins.list[Example]:
        """What `profile`'s feedback teaches, oldest first."""
        return [example for record in self.each(profile) if (example := to_example(record)) is not None]


def to_example(record: FeedbackRecord) -> Example | None:
    """The example a feedback gives: its correction, or the reply itself if it was liked; None if it was not."""
    if record.correction is not None:
        return Example(record.messages, record.correction, LEARNED_WEIGHT, record.id)
    if record.rating is not None and record.rating > 0:
        return Example(record.messages, record.response, APPROVED_WEIGHT, record.id)
    return None


def _filters(profile: str | None, before: datetime | None, tag: str | None) -> builtins.list[ColumnElement[bool]]:
    conditions: builtins.list[ColumnElement[bool]] = []
    if profile is not None:
        conditions.append(feedback.c.profile == profile)
    if before is not None:
        conditions.append(feedback.c.created < before)
    if tag is not None:
        each_tag = func.json_each(feedback.c.tags).table_valued("value")
        conditions.append(select(1).select_from(each_tag).where(each_tag.c.value == tag).exists())
    return conditions


def _insert(connection: Connection, new: NewFeedback, key: str | None) -> FeedbackRecord:
    created = now_utc()
    values = {
        **_subject(connection, new),
        "id": new_id("f", created),
        "created": created,
        "rating": new.rating,
        "correction": new.correction,
        "comment": new.comment,
        "tags": list(new.tags),
        "idempotency_key": key,
        "request_sha256": _digest(new) if key is not None else None,
    }
    connection.execute(insert(feedback), values)
    return _record(values)


def _subject(connection: Connection, new: NewFeedback) -> dict[str, Any]:
    """What the feedback is about: the prompt, the reply, who asked, and which adapter replied."""
    if new.interaction_id is None:
        assert new.messages, "feedback needs an interaction, or a prompt"
        assert new.response is not None, "feedback needs an interaction, or a reply"
        row: dict[str, Any] = {"messages": list(new.messages), "response": new.response, "adapter_version": None}
        return {**row, "profile": new.profile or DEFAULT_PROFILE, "interaction_id": None}
    found = connection.execute(select(interactions).where(interactions.c.id == new.interaction_id)).mappings().first()
    if found is None:
        raise missing_interaction(new.interaction_id)
    row = {name: found[name] for name in ("messages", "response", "adapter_version")}
    return {**row, "profile": new.profile or found["profile"], "interaction_id": new.interaction_id}


def _find_key(connection: Connection, key: str, new: NewFeedback) -> FeedbackRecord | None:
    row = connection.execute(select(feedback).where(feedback.c.idempotency_key == key)).mappings().first()
    if row is not None and row["request_sha256"] != _digest(new):
        raise IdempotencyConflict(
            f"the Idempotency-Key {key!r} was used for feedback {row['id']} with another body; use a key of its own"
        )
    return None if row is None else _record(row)


def _digest(new: NewFeedback) -> str:
    """The same for the same words, whatever their order in the body was."""
    return hashlib.sha256(json.dumps(asdict(new), sort_keys=True).encode()).hexdigest()


def _missing(feedback_id: str) -> FeedbackNotFound:
    return FeedbackNotFound(f"there is no feedback {feedback_id!r}")


def _record(row: RowMapping | dict[str, Any]) -> FeedbackRecord:
    values = {name: value for name, value in row.items() if name not in PRIVATE_COLUMNS}
    return FeedbackRecord(**{**values, "messages": tuple(values["messages"]), "tags": tuple(values["tags"])})
