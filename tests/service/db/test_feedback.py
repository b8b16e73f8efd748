from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from lars_agent.example import Example
from service.db import feedback as module
from service.db.errors import FeedbackNotFound, IdempotencyConflict, InteractionNotFound
from service.db.records import NewFeedback
from tests.service.db.conftest import add_interaction

PROMPT = ({"role": "user", "content": "Hi"},)
LIKED = NewFeedback(messages=PROMPT, response="Yo", rating=1.0)


def add_many(db, news):
    return [db.feedback.add(new)[0] for new in news]


def test_feedback_on_an_interaction_takes_its_text_and_profile(db, interaction_id):
    record, created = db.feedback.add(NewFeedback(interaction_id=interaction_id, rating=-1.0, tags=("fact",)))
    assert created
    assert record == db.feedback.get(record.id)
    assert (record.profile, record.response, record.adapter_version) == ("alice", "Paris?", 2)
    assert (record.rating, record.tags, record.interaction_id) == (-1.0, ("fact",), interaction_id)


def test_feedback_on_nothing_is_refused(db):
    with pytest.raises(InteractionNotFound, match="i-none"):
        db.feedback.add(NewFeedback(interaction_id="i-none", rating=1.0))
    assert db.feedback.list() == []


def test_same_key_and_body_give_the_same_record(db, interaction_id):
    new = NewFeedback(interaction_id=interaction_id, rating=1.0)
    first, _ = db.feedback.add(new, idempotency_key="k")
    db.interactions.delete_hours([hour.name for hour in db.interactions.hours()])  # a retry is answered even so
    again, created = db.feedback.add(new, idempotency_key="k")
    assert not created
    assert again == replace(first, interaction_id=None)
    assert db.feedback.counts()["total"] == 1


def test_same_key_with_another_body_is_a_conflict(db):
    first, _ = db.feedback.add(LIKED, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match=f"'k' was used for feedback {first.id}"):
        db.feedback.add(replace(LIKED, rating=0.5), idempotency_key="k")
    assert db.feedback.list() == [first]


def test_deleted_feedback_frees_its_key(db):
    first, _ = db.feedback.add(LIKED, idempotency_key="k")
    db.erasures.feedback(first.id)
    _, created = db.feedback.add(replace(LIKED, rating=0.5), idempotency_key="k")
    assert created


@pytest.mark.parametrize(
    ("rating", "correction", "learned"),
    [
        (None, "No.", ("No.", 1.0)),
        (-1.0, "No.", ("No.", 1.0)),
        (1.0, "No.", ("No.", 1.0)),
        (1.0, None, ("Yo", 0.5)),
        (0.1, None, ("Yo", 0.5)),
        (0.0, None, None),
        (-1.0, None, None),
        (None, None, None),
    ],
)
def test_example_of_each_kind_of_feedback(db, rating, correction, learned):
    record, _ = db.feedback.add(NewFeedback(messages=PROMPT, response="Yo", rating=rating, correction=correction))
    expected = [Example(PROMPT, learned[0], learned[1], record.id)] if learned else []
    assert db.feedback.examples("default") == expected
    assert db.feedback.examples("alice") == []


@pytest.mark.parametrize(
    ("ratings", "disliked"),
    [((1, -1), [True]), ((-1, 1), [False]), ((1, -1, 1), [True, False]), ((1, 0), [True]), ((1, None), [False])],
)
def test_of_the_ratings_of_one_reply_the_newest_counts(db, ratings, disliked):
    for rating in ratings:
        db.feedback.add(replace(LIKED, rating=rating))
        db.feedback.add(replace(LIKED, response="Another.", rating=-1.0))
    examples = db.feedback.examples("default")
    assert [example.disliked for example in examples] == disliked
    assert all(example.created is not None for example in examples)


def test_examples_come_oldest_first_across_pages(db, monkeypatch):
    monkeypatch.setattr(module, "PAGE_ROWS", 2)
    records = add_many(db, [replace(LIKED, response=f"{i}") for i in range(5)])
    assert [example.source_id for example in db.feedback.examples("default")] == [record.id for record in records]


def test_filters_choose_what_is_listed_and_deleted(db):
    a, b, c = add_many(
        db,
        [
            replace(LIKED, tags=("x", "y")),
            replace(LIKED, tags=("x",), profile="bob"),
            replace(LIKED, tags=("%",), profile="bob"),
        ],
    )
    assert db.feedback.list(tag="x") == [b, a]
    assert db.feedback.list("bob", tag="x") == [b]
    assert db.feedback.list(tag="_") == []
    assert db.feedback.list(before=c.created) == [record for record in (b, a) if record.created < c.created]
    assert db.feedback.list(before=c.created + timedelta(seconds=1), limit=1, after=c.id) == [b]
    assert db.feedback.profiles() == ["bob", "default"]
    assert db.erasures.matching(profile="bob", tag="x").feedback == (b.id,)
    assert db.feedback.list() == [c, a]


def test_unknown_feedback_is_named(db):
    for call in (db.feedback.get, db.erasures.feedback):
        with pytest.raises(FeedbackNotFound, match="f-none"):
            call("f-none")


def test_text_of_every_script_comes_back(db):
    said = "naïve 日本語 🙂 \u202e \x1f ' \" ; DROP TABLE feedback --"
    record, _ = db.feedback.add(replace(LIKED, correction=said))
    assert db.feedback.get(record.id).correction == said


def test_counts_are_by_kind(db, interaction_id):
    add_interaction(db)
    corrected = NewFeedback(interaction_id=interaction_id, correction="x")
    add_many(db, [LIKED, replace(LIKED, rating=-1.0), corrected])
    assert db.feedback.counts() == {"total": 3, "corrections": 1, "liked": 1, "disliked": 1, "stated": 0}
    assert db.feedback.counts("alice")["total"] == 1
