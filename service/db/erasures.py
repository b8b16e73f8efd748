"""Deletions on a person's behalf: the rows go at once, and one record follows what else has to go."""

from __future__ import annotations

import builtins
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    String,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)

from service.db import erased
from service.db.base import Records
from service.db.engine import holds, last_message, now_of, reading, writing
from service.db.errors import ConversationNotFound, ErasureNotFound, FeedbackNotFound, InteractionNotFound
from service.db.feedback import Feedback
from service.db.files import Files
from service.db.interactions import Interactions
from service.db.records import ErasureRecord, new_id
from service.db.tables import erasures, feedback, files, interactions, stored_feedback

STAGES = ("rows", "recall", "wordings", "served_version", "caches", "jobs", "checkpoints", "free_pages")
BATCH = 500  # rows in one statement
QUOTED = 12  # characters from which on a correction inside another reply is no coincidence


class Erasures(Records[ErasureRecord]):
    """Deletes feedback and interactions of the database behind `engine`, and keeps a record of each deletion.

    With feedback goes the interaction that it is about, and every reply that it was recalled for or that repeats its
    correction word for word; with what was stated in an interaction every later turn of that conversation; with an
    interaction the feedback on it. Other feedback that quotes the correction goes too where it was a rating alone; a
    correction of its own is told again, under a new id, without the turns and the reply that quote it.
    """

    table, record, not_found = erasures, ErasureRecord, ErasureNotFound

    def __init__(self, engine: Engine, profile: str | None = None) -> None:
        """`profile` is noted in each record: that which deletes, where it is not the owner who does."""
        super().__init__(engine)
        self._profile = profile

    def feedback(self, feedback_id: str) -> ErasureRecord:
        """Delete one piece of feedback. Raises FeedbackNotFound."""
        found = self._erase([feedback.c.id == feedback_id])
        if found is None:
            raise FeedbackNotFound.of(feedback_id)
        return found

    def interaction(self, interaction_id: str) -> ErasureRecord:
        """Delete one interaction and the feedback on it. Raises InteractionNotFound."""
        found = self._erase([feedback.c.interaction_id == interaction_id], interactions.c.id == interaction_id)
        if found is None:
            raise InteractionNotFound.of(interaction_id)
        return found

    def conversation(self, conversation_id: str, profile: str | None = None) -> ErasureRecord:
        """Delete the interactions of one conversation and the feedback on them. Raises ConversationNotFound.

        Two profiles may have one of the same id, as clients choose it: without a `profile` both are deleted.
        """
        own = and_(*Interactions.filters(profile, conversation_id))
        found = self._erase([feedback.c.interaction_id.in_(select(interactions.c.id).where(own))], own)
        if found is None:
            raise ConversationNotFound.of(conversation_id)
        return found

    def going_with(self, feedback_ids: Sequence[str]) -> int:
        """Return how many interactions go if this feedback is deleted; unknown ids have none."""
        with reading(self._engine) as connection:
            found = connection.execute(_with_what_was_said(feedback.c.id.in_(feedback_ids))).all()
            own = (select(interactions.c.seq).where(_going_with(*row)) for row in found)
            return len({seq for query in own for seq in connection.scalars(query)})

    def affected(self, feedback_ids: Sequence[str]) -> dict[str, builtins.list[str]]:
        """Return by profile the ids of this feedback and of what goes, or is told again, with it."""
        ids: dict[str, builtins.list[str]] = {}
        with reading(self._engine) as connection:
            found = connection.execute(_with_what_was_said(feedback.c.id.in_(feedback_ids))).all()
            for row in (*found, *_quoting(connection, found)):
                ids.setdefault(row.profile, []).append(row.id)
        return ids

    def matching(self, **filters: Any) -> ErasureRecord | None:
        """Delete the feedback that matches every filter, see `Feedback.list`; return None where none does."""
        return self._erase(Feedback.filters(**filters))

    def profile(self, name: str) -> ErasureRecord | None:
        """Delete everything that was said and corrected as profile `name`; return None where there is nothing."""
        return self._erase([feedback.c.profile == name], interactions.c.profile == name)

    def file(self, file_id: str) -> ErasureRecord | None:
        """Delete an uploaded file and all feedback in it; return None where it held none. Raises FileNotFound."""
        uploaded = Files(Feedback(self._engine))
        uploaded.get(file_id)
        found, unused = self._erase([feedback.c.file == file_id]), uploaded.delete(file_id)
        if found is None and unused:  # learned by nobody, but pages may still have their text
            with writing(self._engine) as connection:
                erased.note(connection, [file_id])
                return self._note(connection, (), tuple(unused), 0)
        return found

    def again(self, gone: erased.Erased) -> builtins.list[ErasureRecord]:
        """Delete from a restored database all that the state before it knows to be deleted; return the erasures.

        That state's digests and records are kept: another backup may hold what this one does not.
        """
        with reading(self._engine) as connection:
            rows = sorted(gone.among(connection.scalars(select(stored_feedback.c.id))))
            replies = sorted(gone.among(connection.scalars(select(interactions.c.id))))
            uploaded = sorted(gone.among(connection.scalars(select(files.c.id))))
        made = [self._erase([feedback.c.id.in_(some)]) for some in _batches(rows)]
        for some in _batches(replies):
            made.append(self._erase([feedback.c.interaction_id.in_(some)], interactions.c.id.in_(some)))
        with writing(self._engine) as connection:
            for some in _batches(rows):  # uploaded, and nobody's
                connection.execute(delete(stored_feedback).where(stored_feedback.c.id.in_(some)))
            connection.execute(delete(files).where(files.c.id.in_(uploaded)))
            erased.adopt(connection, gone)
        return [record for record in made if record is not None]

    def list(self, profile: str | None = None, limit: int = 100) -> builtins.list[ErasureRecord]:
        """Return the latest erasures, newest first."""
        return self._latest(limit, None, *([] if profile is None else [holds(erasures.c.profiles, profile)]))

    def pending(self, *stages: str) -> builtins.list[ErasureRecord]:
        """Return the erasures of which one of the `stages`, by default any, is not done; oldest first."""
        missing = [func.json_extract(erasures.c.stages, f"$.{stage}").is_(None) for stage in stages or STAGES]
        return self._read(select(erasures).where(or_(*missing)).order_by(erasures.c.seq))

    def mark(self, record: ErasureRecord, *stages: str, versions: dict[str, builtins.list[int]] | None = None) -> None:
        """Note that `stages` are done, unless they were before, and which adapter `versions` are deleted."""
        moment = now_of(self._engine).isoformat(timespec="milliseconds")
        with writing(self._engine) as connection:
            known = self._get(connection, record.id)
            done = {**dict.fromkeys(stages, moment), **known.stages}
            gone = {name: [*found] for name, found in known.versions.items()}
            for name, found in (versions or {}).items():
                if found:
                    gone[name] = sorted({*gone.get(name, ()), *found})
            connection.execute(update(erasures).where(erasures.c.id == record.id).values(stages=done, versions=gone))

    def _erase(
        self, rows: Sequence[ColumnElement[bool]], replies: ColumnElement[bool] | None = None
    ) -> ErasureRecord | None:
        """Delete the feedback that matches all of `rows`, the interactions `replies`, and what goes with them.

        The interactions go first, some at a time, so that nobody waits long for the database; who dies meanwhile still
        has the feedback, and may ask again.
        """
        with reading(self._engine) as connection:
            found = connection.execute(_with_what_was_said(*rows)).all()
            quoting = _quoting(connection, found)
        count = 0 if replies is None else self._delete_interactions(replies)
        count += sum(self._delete_interactions(_going_with(*row)) for row in found)
        if not found and not count:
            return None
        ids = tuple(row.id for row in (*found, *quoting))
        with writing(self._engine) as connection:
            told_again = {row.id for row in quoting if _tell_again(connection, row, found)}
            for start in range(0, len(ids), BATCH):
                gone = stored_feedback.c.id.in_(ids[start : start + BATCH])
                connection.execute(delete(stored_feedback).where(gone))
            kept = select(stored_feedback.c.file).where(stored_feedback.c.file.is_not(None))
            connection.execute(delete(files).where(files.c.profile.is_not(None), files.c.id.not_in(kept)))
            profiles = tuple(sorted({row.profile for row in found}))
            return self._note(connection, profiles, ids, count, told_again)

    def _note(
        self,
        connection: Connection,
        profiles: tuple[str, ...],
        ids: tuple[str, ...],
        interactions: int,
        told_again: Collection[str] = (),
    ) -> ErasureRecord:
        """Record a deletion whose rows are gone; those `told_again` are not: in a backup they are told again too."""
        erased.note(connection, [one for one in ids if one not in told_again])
        created, own = now_of(self._engine), () if self._profile is None else (self._profile,)
        stages = {"rows": created.isoformat(timespec="milliseconds")}
        record = ErasureRecord(new_id("e", created), created, own or profiles, ids, interactions, {}, stages)
        connection.execute(insert(erasures), vars(record))
        return record

    def _delete_interactions(self, which: ColumnElement[bool]) -> int:
        """Delete the interactions, a batch at a time; return their number."""
        batch, total = select(interactions.c.seq).where(which).limit(BATCH), 0
        gone = delete(interactions).where(interactions.c.seq.in_(batch)).returning(interactions.c.id)
        while True:
            with writing(self._engine) as connection:
                ids = builtins.list(connection.scalars(gone))
                erased.note(connection, ids)
            total += len(ids)
            if len(ids) < BATCH:
                return total


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


def _with_what_was_said(*rows: ColumnElement[bool]) -> Select[Any]:
    """Return the query of feedback as `_going_with` takes it."""
    columns = (feedback.c.id, feedback.c.profile, feedback.c.interaction_id, feedback.c.correction)
    said = last_message(interactions.c.messages).label("said")
    stated_in = and_(interactions.c.id == feedback.c.interaction_id, feedback.c.source == "stated")
    return select(*columns, said).select_from(feedback.outerjoin(interactions, stated_in)).where(*rows)


def _going_with(
    feedback_id: str, profile: str, interaction_id: str | None, correction: str | None, said: str | None
) -> ColumnElement[bool]:
    """Return the condition of interactions that go with this feedback; `said` is in what message it was stated."""
    which = [holds(interactions.c.recalled, feedback_id)]
    which += [_quotes(text, interactions.c.messages, interactions.c.response) for text in _telling(correction, said)]
    return or_(interactions.c.id == interaction_id, and_(interactions.c.profile == profile, or_(*which)))


def _telling(*texts: str | None) -> list[str]:
    """Return the texts whose occurrence in another reply is no coincidence."""
    return [text for text in texts if text is not None and len(text) >= QUOTED]


def _quotes(text: str, messages: ColumnElement[Any], *others: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that the messages, or one of the other texts, quote `text`."""
    stored = func.instr(type_coerce(messages, String), json.dumps(text)[1:-1]) > 0
    return or_(stored, *(func.instr(func.coalesce(other, ""), text) > 0 for other in others))


def _quoting(connection: Connection, found: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return the other feedback of the same profiles whose conversation, reply or comment quotes that of `found`."""
    own, rows = {row.id for row in found}, dict[str, Row[Any]]()
    every = select(feedback.c.id).where(feedback.c.profile.in_({row.profile for row in found}))
    if own.issuperset(connection.scalars(every)):  # of a profile that goes as a whole, nothing else is there to be read
        return []
    for row in found:
        for text in _telling(row.correction, row.said):
            quotes = _quotes(text, feedback.c.messages, feedback.c.response, feedback.c.comment)
            query = select(feedback).where(feedback.c.profile == row.profile, quotes)
            rows |= {other.id: other for other in connection.execute(query) if other.id not in own}
    return list(rows.values())


def _tell_again(connection: Connection, row: Row[Any], found: Sequence[Row[Any]]) -> bool:
    """Give a correction a new id, without the turns, the reply and the comment that quote what is deleted.

    Whoever learned it as it was forgets it then. A rating alone, and a question that quotes it, stay as they are, to be
    deleted: then the answer is False.
    """
    texts = [text for one in found if one.profile == row.profile for text in _telling(one.correction, one.said)]

    def is_clean(said: str | None) -> bool:
        return said is None or not any(text in said for text in texts)

    *earlier, last = row.messages
    if row.correction is None or last["role"] != "user" or not is_clean(last["content"]):
        return False
    new = new_id("f", row.created)
    values = {
        "id": new,
        "messages": [*(turn for turn in earlier if turn["role"] == "system" and is_clean(turn["content"])), last],
        "response": row.response if is_clean(row.response) else "",
        "comment": row.comment if is_clean(row.comment) else None,
    }
    connection.execute(update(stored_feedback).where(stored_feedback.c.id == row.id).values(**values))
    recalled = type_coerce(interactions.c.recalled, String)
    named = update(interactions).where(holds(interactions.c.recalled, row.id))
    connection.execute(named.values(recalled=func.replace(recalled, row.id, new)))
    return True
