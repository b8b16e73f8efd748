"""Feedback on replies, and the training examples that it gives."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, String, delete, func, insert, or_, select, type_coerce

from lars_agent.english.statements import corrected
from lars_agent.example import Example
from lars_agent.models.tool_calls import read_calls
from lars_agent.store.names import DEFAULT_PROFILE
from service.db.base import Records
from service.db.engine import holds, mentions, now_of, reading, writing
from service.db.errors import FeedbackNotFound, IdempotencyConflict, InteractionNotFound
from service.db.records import (
    APPROVED_WEIGHT,
    LEARNED_WEIGHT,
    FeedbackRecord,
    NewFeedback,
    Source,
    new_id,
)
from service.db.tables import feedback, interactions, stored_feedback

PAGE_ROWS = 200


class Feedback(Records[FeedbackRecord]):
    """The feedback of the database behind `engine`."""

    table, record, not_found = feedback, FeedbackRecord, FeedbackNotFound

    def add(self, new: NewFeedback, *, idempotency_key: str | None = None) -> tuple[FeedbackRecord, bool]:
        """Store feedback; return it, and False if the key was used before with the same body.

        Raises InteractionNotFound, and IdempotencyConflict for a key that was used with another body.
        """
        with writing(self._engine) as connection:
            if idempotency_key is not None and (earlier := self._find_key(connection, idempotency_key, new)):
                return earlier, False
            return self._insert(connection, new, idempotency_key), True

    def add_stated(self, news: Sequence[NewFeedback]) -> None:
        """Store what was stated in a conversation, without what is the newest to its question anyway."""
        with writing(self._engine) as connection:
            for new in news:
                prompt = type_coerce(feedback.c.messages, String) == json.dumps(new.messages)
                newest = select(feedback.c.correction).where(feedback.c.profile == new.profile, prompt)
                if connection.scalar(newest.order_by(feedback.c.seq.desc()).limit(1)) != new.correction:
                    self._insert(connection, new, None)

    def edit(self, feedback_id: str, **changes: Any) -> FeedbackRecord:
        """Change rating, correction, comment or tags; from then on it counts as the newest. Raises FeedbackNotFound."""
        with writing(self._engine) as connection:
            known = connection.execute(select(feedback).where(feedback.c.id == feedback_id)).mappings().first()
            if known is None:
                raise FeedbackNotFound.of(feedback_id)
            return self._change(connection, known, changes)

    def put(self, new: NewFeedback) -> tuple[FeedbackRecord, bool]:
        """Store feedback, or change what the profile has under its `key`; return it, and whether it is new."""
        with writing(self._engine) as connection:
            subject = _subject(connection, new)
            key = key_of(replace(new, profile=subject["profile"]))
            same = feedback.c.idempotency_key == key
            known = connection.execute(select(feedback).where(same)).mappings().first() if key else None
            if known is None:
                return self._insert(connection, new, key), True
            said = {"rating": new.rating, "correction": new.correction, "comment": new.comment, "tags": list(new.tags)}
            return self._change(connection, known, subject | said), False

    def list(
        self,
        profile: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        *,
        after: str | None = None,
        **filters: Any,
    ) -> builtins.list[FeedbackRecord]:
        """Return the latest feedback before a time, newest first; `after` is the id of the last one already seen.

        See `filters` for the others.
        """
        return self._latest(limit, after, *self.filters(profile, before, **filters))

    def count(self, **filters: Any) -> int:
        """Return the number of pieces of feedback. See `filters`."""
        return self._count(*self.filters(**filters))

    def each(self, profile: str | None = None, tag: str | None = None) -> Iterator[FeedbackRecord]:
        """Yield every feedback, oldest first; read a page at a time, so any number fits in memory."""
        last = 0
        while True:
            query = select(feedback).where(feedback.c.seq > last, *self.filters(profile, None, tag))
            with reading(self._engine) as connection:
                rows = connection.execute(query.order_by(feedback.c.seq).limit(PAGE_ROWS)).mappings().all()
            yield from map(self._record, rows)
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1]["seq"]

    def after(self, seq: int, limit: int) -> Iterator[tuple[int, FeedbackRecord]]:
        """Yield the first feedback stored after the row `seq`, oldest first, each with the number of its row."""
        query = select(feedback).where(feedback.c.seq > seq).order_by(feedback.c.seq).limit(limit)
        with reading(self._engine) as connection:
            for row in connection.execute(query).mappings():
                yield row["seq"], self._record(row)

    def extent(self, after: int = 0) -> tuple[int, int]:
        """Return the number of rows stored after the row `after`, and the number of the last one (0: none is left)."""
        query = select(func.count(), func.coalesce(func.max(feedback.c.seq), 0)).where(feedback.c.seq > after)
        with reading(self._engine) as connection:
            count, last = connection.execute(query).one()
            return int(count), int(last)

    def keys(self, profile: str) -> builtins.list[str]:
        """Return the keys under which feedback of the profile was stored."""
        query = select(feedback.c.idempotency_key).where(
            feedback.c.profile == profile, feedback.c.idempotency_key.is_not(None)
        )
        with reading(self._engine) as connection:
            return builtins.list(connection.scalars(query))

    def known(self, feedback_ids: Collection[str]) -> set[str]:
        """Return those of the ids that exist."""
        found = set[str]()
        for among in _among(feedback_ids):
            with reading(self._engine) as connection:
                found.update(connection.scalars(select(feedback.c.id).where(among)))
        return found

    def some(self, feedback_ids: Collection[str]) -> builtins.list[FeedbackRecord]:
        """Return the feedback with these ids, oldest first; without those that do not exist."""
        found = [record for among in _among(feedback_ids) for record in self._read(select(feedback).where(among))]
        return sorted(found, key=lambda record: record.created)

    def counts(self, profile: str | None = None) -> dict[str, int]:
        """Count the feedback: `total`, of which `corrections`, `liked`, `disliked` and `stated`."""
        is_stated = feedback.c.source == "stated"
        query = select(
            func.count().label("total"),
            func.count(feedback.c.correction).filter(~is_stated).label("corrections"),
            func.count().filter(is_stated).label("stated"),
            func.count().filter(feedback.c.rating > 0).label("liked"),
            func.count().filter(feedback.c.rating <= 0).label("disliked"),
        ).where(*self._of(profile))
        with reading(self._engine) as connection:
            return dict(connection.execute(query).mappings().one())

    def lessons(self) -> dict[str, int]:
        """Count by profile what can be learned from: corrections, liked replies, and what was stated."""
        teaches = or_(feedback.c.correction.is_not(None), feedback.c.rating > 0)
        query = select(feedback.c.profile, func.count()).where(teaches).group_by(feedback.c.profile)
        with reading(self._engine) as connection:
            return {profile: count for profile, count in connection.execute(query)}

    def ratings(self, profile: str) -> dict[int | None, tuple[int, int]]:
        """Count by adapter version the replies that were liked, and those that were disliked or corrected."""
        is_bad = or_(feedback.c.rating <= 0, feedback.c.correction.is_not(None))
        good = func.count().filter(feedback.c.rating > 0, feedback.c.correction.is_(None))
        query = select(feedback.c.adapter_version, good, func.count().filter(is_bad)).group_by(
            feedback.c.adapter_version
        )
        is_given = feedback.c.source == "given"
        own = (feedback.c.profile == profile, feedback.c.interaction_id.is_not(None), is_given)
        with reading(self._engine) as connection:
            return {version: (liked, bad) for version, liked, bad in connection.execute(query.where(*own))}

    def has_profile(self, profile: str) -> bool:
        """Return whether the profile has feedback."""
        query = select(feedback.c.seq).where(feedback.c.profile == profile).limit(1)
        with reading(self._engine) as connection:
            return connection.scalar(query) is not None

    def examples(self, profile: str) -> builtins.list[Example]:
        """Return the examples of `profile`'s feedback, oldest first; of a reply's ratings the newest counts."""
        found, liked = list[Example](), dict[str, int]()
        for record in self.each(profile):
            example, reply = to_example(record), json.dumps([record.messages, record.response.strip()])
            if record.rating is not None and record.rating <= 0 and reply in liked:
                index = liked.pop(reply)
                found[index] = replace(found[index], disliked=True)
            if example is not None:
                if record.correction is None and record.rating is not None and record.rating > 0:
                    liked[reply] = len(found)
                found.append(example)
        return found

    @classmethod
    def filters(
        cls,
        profile: str | None = None,
        before: datetime | None = None,
        tag: str | None = None,
        source: Source | None = None,
        id: Collection[str] | None = None,
        q: str | None = None,
        conversation: str | None = None,
        file: str | None = None,
    ) -> builtins.list[ColumnElement[bool]]:
        """Return the conditions of feedback that matches every filter given.

        Its texts mention all the words `q`; it is on an interaction of the `conversation`; it came in the `file`.
        """
        conditions = cls._of(profile)
        if before is not None:
            conditions.append(feedback.c.created < before)
        if tag is not None:
            conditions.append(holds(feedback.c.tags, tag))
        if id is not None:
            conditions.append(feedback.c.id.in_(id))
        if source is not None:
            conditions.append(feedback.c.source == source)
        if conversation is not None:
            own = select(interactions.c.id).where(interactions.c.conversation == conversation)
            conditions.append(feedback.c.interaction_id.in_(own))
        if file is not None:
            conditions.append(feedback.c.file == file)
        if q is not None:
            row = feedback.c
            conditions.append(mentions(q, row.messages, row.response, row.correction, row.comment))
        return conditions

    def _change(self, connection: Connection, known: RowMapping, changes: Mapping[str, Any]) -> FeedbackRecord:
        row = {**known, **changes, "seq": None}  # who follows the rows sees a new one
        connection.execute(delete(stored_feedback).where(stored_feedback.c.id == known["id"]))
        connection.execute(insert(stored_feedback), row)
        return self._record(row)

    def _insert(self, connection: Connection, new: NewFeedback, key: str | None) -> FeedbackRecord:
        created = now_of(connection)
        own = {"id": new_id("f", created), "created": created, "tags": new.tags}
        own |= {"rating": new.rating, "correction": new.correction, "comment": new.comment, "source": new.source}
        record = self._record(_subject(connection, new) | own)
        digest = _digest(new) if key is not None else None
        connection.execute(insert(stored_feedback), {**vars(record), "idempotency_key": key, "request_sha256": digest})
        return record

    def _find_key(self, connection: Connection, key: str, new: NewFeedback) -> FeedbackRecord | None:
        row = connection.execute(select(feedback).where(feedback.c.idempotency_key == key)).mappings().first()
        if row is not None and row["request_sha256"] != _digest(new):
            raise IdempotencyConflict(
                f"the Idempotency-Key {key!r} was used for feedback {row['id']} with another body; use a key of its own"
            )
        return None if row is None else self._record(row)


def key_of(new: NewFeedback) -> str | None:
    """Return the key under which it is stored, which is no client's Idempotency-Key; None if it has none."""
    return None if new.key is None else f"{new.key} {new.profile or DEFAULT_PROFILE}"


def to_example(record: FeedbackRecord) -> Example | None:
    """Return the correction as an example, or the reply if it was liked; None for other feedback.

    A comment on a disliked reply is a correction where it says what the reply should have been. A reply that calls a
    tool, or that is made from its result, is learned only as it was corrected: it will be another one tomorrow.
    """
    correction = record.correction
    if correction is None and record.comment and record.rating is not None and record.rating < 0:
        correction = corrected(record.messages[-1]["content"], record.comment, is_comment=True)
    if correction is not None:
        return Example(record.messages, correction, LEARNED_WEIGHT, record.id, record.created)
    if record.rating is not None and record.rating > 0 and not _uses_tools(record):
        return Example(record.messages, record.response, APPROVED_WEIGHT, record.id, record.created)
    return None


def _uses_tools(record: FeedbackRecord) -> bool:
    return bool(record.messages and record.messages[-1]["role"] == "tool") or bool(read_calls(record.response)[1])


def _among(feedback_ids: Collection[str]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of rows with these ids, some ids in each."""
    wanted = sorted(feedback_ids)
    for start in range(0, len(wanted), PAGE_ROWS):
        yield feedback.c.id.in_(wanted[start : start + PAGE_ROWS])


def _subject(connection: Connection, new: NewFeedback) -> dict[str, Any]:
    """Return the columns that say what the feedback is about, copied from the interaction if it names one."""
    if new.messages is not None:
        assert new.response is not None, "a prompt needs a reply"
        row: dict[str, Any] = {"messages": list(new.messages), "response": new.response, "adapter_version": None}
        return {**row, "profile": new.profile or DEFAULT_PROFILE, "interaction_id": new.interaction_id}
    assert new.interaction_id is not None, "feedback needs an interaction, or a prompt"
    found = connection.execute(select(interactions).where(interactions.c.id == new.interaction_id)).mappings().first()
    if found is None:
        raise InteractionNotFound.of(new.interaction_id)
    row = {name: found[name] for name in ("messages", "response", "adapter_version")}
    return {**row, "profile": new.profile or found["profile"], "interaction_id": new.interaction_id}


def _digest(new: NewFeedback) -> str:
    """Hash the body, whatever the order of its keys was."""
    body = {name: value for name, value in asdict(new).items() if name not in ("source", "key")}  # no part of it
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
