"""A profile's view of the database: rows of others cannot be read, changed or made on its connections."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DatabaseError

from service.db import own_rows
from service.db.engine import reading, writing
from service.db.records import FileRecord, NewFeedback, ScheduledRun, new_id, now_utc
from service.db.tables import NOBODY, erased, feedback, files, interactions, metadata, stored_feedback
from tests.service.db.conftest import add_interaction

PEOPLE = ("alice", "bob")
TABLES = [table for table in metadata.sorted_tables if table is not erased]  # which tells nothing, and is for all
CHANGES = {
    "erasures": ("interactions", 5),
    "feedback": ("comment", "changed"),
    "files": ("name", "changed"),
    "imports": ("last", 5),
    "interactions": ("response", "changed"),
    "jobs": ("error", "changed"),
    "profile_tokens": ("label", "changed"),
    "runs": ("last_run", now_utc()),
    "scheduled_runs": ("reason", "changed"),
    "sessions": ("client", "changed"),
}


@pytest.fixture
def two(db):
    """A row of every table for each of two people."""
    for name in PEOPLE:
        new = NewFeedback(interaction_id=add_interaction(db, name), correction=f"{name} was there")
        db.feedback.add(new)
        db.jobs.add(name, "manual")
        db.scheduled_runs.note_run(name, now_utc())
        db.scheduled_runs.record(ScheduledRun(name, now_utc(), now_utc(), "skipped", name))
        db.profile_tokens.add(name, "phone", f"token of {name}")
        db.sessions.add(f"secret of {name}", "", "Firefox", name)
        file = FileRecord(new_id("file", now_utc()), now_utc(), f"{name}.jsonl", 9, uploader=name)
        db.imports.store([[NewFeedback(messages=({"role": "user", "content": "?"},), response=name)]], 1, file=file)
        db.of(name).erasures.feedback(db.feedback.add(new)[0].id)
        db.feedback.add(NewFeedback(interaction_id=add_interaction(db, name), correction=f"{name} was here"))
    return db


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_only_rows_of_the_profile_exist_on_its_connections(two, table):
    def read(engine) -> list[str]:
        with reading(engine) as connection:
            return sorted(str(row) for row in connection.execute(select(table)))

    every, own = read(two.engine), read(two.of("alice").engine)
    assert own == [row for row in every if "alice" in row and table in own_rows.RULES]
    assert len(own) < len(every) or table in own_rows.READABLE


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_no_change_reaches_the_rows_of_others(two, table):
    column, value = CHANGES[table.name]

    def state() -> list[object]:
        with reading(two.engine) as connection:
            return [tuple(row) for row in connection.execute(select(table)) if "alice" not in str(row)]

    before = state()
    for change in (update(table).values(**{column: value}), delete(table)):
        with writing(two.of("alice").engine) as connection:
            connection.execute(change)
        assert state() == before


@pytest.mark.parametrize("name", ["bob", NOBODY])
def test_a_row_of_another_cannot_be_made(two, name):
    own = two.of("alice")
    with reading(own.engine) as connection:
        row = dict(connection.execute(select(feedback)).mappings().first())
    for change in (insert(stored_feedback).values({**row, "seq": None, "id": "f-x", "profile": name}),
                   update(stored_feedback).values(profile=name)):  # fmt: skip
        with pytest.raises(DatabaseError, match="not a row of this profile"), writing(own.engine) as connection:
            connection.execute(change)
    with pytest.raises(DatabaseError), writing(own.engine) as connection:
        connection.execute(insert(metadata.tables["imports"]).values(first=1, last=2))


def test_rows_of_an_uploaded_file_are_its_uploader_s_until_a_profile_takes_it_up(two):
    (file,) = two.of("alice").files.list(9)
    assert [row.response for row in two.of("alice").files.each(file.id)] == ["alice"]
    assert list(two.of("bob").files.each(file.id)) == []
    two.files.take_up(file.id, "bob")  # by the owner
    assert two.of("alice").files.list(9) == []
    assert list(two.of("alice").files.each(file.id)) == []
    assert [row.response for row in two.of("bob").files.each(file.id)] == ["alice"]


def test_an_interaction_goes_although_somebody_else_s_feedback_is_on_it(two):
    own = two.of("alice")
    (interaction, *_) = own.interactions.list()
    two.feedback.add(NewFeedback(interaction_id=interaction.id, correction="The owner's.", profile="bob"))
    own.erasures.interaction(interaction.id)
    assert interaction.id not in [one.id for one in two.interactions.list()]
    assert [row.interaction_id for row in two.feedback.list("bob", limit=1)] == [None]


def test_a_query_in_words_is_answered_of_the_views_too(two):
    with reading(two.of("alice").engine) as connection:
        assert connection.scalar(text("SELECT group_concat(DISTINCT profile) FROM interactions")) == "alice"
        assert connection.scalar(select(interactions.c.id).where(interactions.c.profile == "bob")) is None
        assert connection.scalar(select(files.c.id).where(files.c.uploader == "bob")) is None
