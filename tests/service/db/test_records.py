"""Interactions, jobs and scheduled runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from service.db import interactions
from service.db.errors import InteractionNotFound, JobNotFound
from service.db.records import NewFeedback
from tests.service.db.conftest import add_interaction


def test_interaction_comes_back_as_it_was_stored(db, interaction_id):
    record = db.interactions.get(interaction_id)
    assert record.messages == ({"role": "user", "content": "What is the capital of France?"},)
    assert (record.profile, record.response, record.adapter_version, record.seed) == ("alice", "Paris?", 2, 7)
    assert record.parameters == {"top_k": 3}
    assert record.created.tzinfo is not None


def test_interaction_that_is_too_old_is_gone_but_feedback_keeps_its_text(db, interaction_id):
    feedback, _ = db.feedback.add(NewFeedback(interaction_id=interaction_id, correction="Paris."))
    db.interactions.delete_hours([hour.name for hour in db.interactions.hours()])
    with pytest.raises(InteractionNotFound, match=interaction_id):
        db.interactions.get(interaction_id)
    kept = db.feedback.get(feedback.id)
    assert (kept.interaction_id, kept.response, kept.messages) == (None, "Paris?", feedback.messages)
    assert len(db.feedback.examples("alice")) == 1


def test_deleted_text_is_not_left_in_the_file(db, path):
    interaction_id = add_interaction(db, response="the secret of the blue door")
    db.erasures.interaction(interaction_id)
    db.close()
    assert b"blue door" not in path.read_bytes()


def test_lists_are_newest_first_and_paged(db):
    ids = [add_interaction(db, profile=("alice", "bob")[i % 2]) for i in range(5)]
    page = db.interactions.list(limit=2)
    assert [record.id for record in page] == [ids[4], ids[3]]
    assert [record.id for record in db.interactions.list(limit=9, after=page[-1].id)] == [ids[2], ids[1], ids[0]]
    assert [record.id for record in db.interactions.list(profile="bob")] == [ids[3], ids[1]]
    assert db.interactions.list(after="i-unknown") == []


def test_job_is_queued_and_then_what_it_is_set_to(db):
    job = db.jobs.add("default", "manual")
    assert (job.status, job.id[:2], job.started) == ("queued", "j-", None)
    started = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    changed = db.jobs.update(job.id, status="running", started=started, spec={"steps": 160}, budget_bytes=2**31)
    assert changed == db.jobs.get(job.id)
    assert (changed.started, changed.spec, changed.budget_bytes) == (started, {"steps": 160}, 2**31)
    assert changed.started.tzinfo is UTC


def test_unfinished_jobs_are_oldest_first(db):
    jobs = [db.jobs.add("default", "manual") for _ in range(4)]
    db.jobs.update(jobs[1].id, status="paused")
    db.jobs.update(jobs[2].id, status="rejected")
    assert [job.id for job in db.jobs.unfinished()] == [jobs[0].id, jobs[1].id, jobs[3].id]
    assert [job.id for job in db.jobs.list(limit=2)] == [jobs[3].id, jobs[2].id]


def test_unknown_job_is_named(db):
    for call in (db.jobs.get, lambda job_id: db.jobs.update(job_id, status="failed")):
        with pytest.raises(JobNotFound, match="j-none"):
            call("j-none")


def test_last_run_is_remembered_by_profile(db):
    assert db.scheduled_runs.last_run("default") is None
    for day in (1, 2):
        db.scheduled_runs.note_run("default", datetime(2026, 1, day, tzinfo=UTC))
    assert db.scheduled_runs.last_run("default") == datetime(2026, 1, 2, tzinfo=UTC)
    assert db.scheduled_runs.last_run("alice") is None


def test_interactions_are_listed_and_removed_by_the_hour(db, monkeypatch):
    monkeypatch.setattr(interactions, "BATCH_ROWS", 2)
    ids = [add_interaction(db, response="é" * 10) for _ in range(3)]
    hours = db.interactions.hours()
    assert {hour.name for hour in hours} == {db.interactions.get(name).created.strftime("%Y-%m-%dT%H") for name in ids}
    assert hours[-1].latest == db.interactions.get(ids[-1]).created
    assert sum(hour.bytes for hour in hours) > 3 * len("What is the capital of France?" + "é" * 10) + 30
    names = [hour.name for hour in hours]
    assert [db.interactions.delete_hours(names) for _ in range(3)] == [2, 1, 0]
    assert db.interactions.hours() == []


def test_job_summaries_have_end_and_size(db):
    waiting, over = db.jobs.add("default", "manual"), db.jobs.add("alice", "schedule")
    ended = datetime(2026, 3, 1, tzinfo=UTC)
    db.jobs.update(over.id, status="succeeded", finished=ended, version=3, spec={"words": "x" * 100})
    first, last = db.jobs.summaries()
    assert (first.id, first.at, first.is_over, first.bytes) == (waiting.id, waiting.created, False, 0)
    assert (last.id, last.at, last.is_over, last.version, last.profile) == (over.id, ended, True, 3, "alice")
    assert last.bytes > 100


def test_only_a_job_that_has_ended_can_be_deleted(db):
    job = db.jobs.add("default", "manual")
    with pytest.raises(JobNotFound, match="that has ended"):
        db.jobs.delete(job.id)
    db.jobs.update(job.id, status="failed")
    db.jobs.delete(job.id)
    with pytest.raises(JobNotFound):
        db.jobs.get(job.id)


def test_known_feedback_is_what_is_still_here(db, interaction_id):
    kept, gone = (db.feedback.add(NewFeedback(interaction_id=interaction_id))[0].id for _ in range(2))
    db.erasures.feedback(gone)
    assert db.feedback.known({kept, gone, *(f"f-{i}" for i in range(500))}) == {kept}
    assert db.feedback.known([]) == set()
