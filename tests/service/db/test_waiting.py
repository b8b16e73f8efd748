"""Feedback that waits to be learned, and jobs that fail in a row, as the database counts them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lars_agent.example import Message
from service.db.records import NewFeedback, ScheduledRun, now_utc


def correct(db, profile: str = "default", **given) -> None:
    values = {"correction": "Rome.", **given}
    db.feedback.add(NewFeedback(None, (Message(role="user", content="?"),), "Paris.", profile=profile, **values))


def ended(db, status: str, profile: str = "default") -> None:
    job = db.jobs.add(profile, "schedule")
    db.jobs.update(job.id, status=status, started=now_utc())


def test_feedback_waits_until_a_version_has_learned_it_and_what_teaches_nothing_does_not(db):
    assert db.waiting() == (0, None)
    correct(db, correction=None, rating=-1.0)
    assert db.waiting() == (0, None)
    before = now_utc()
    correct(db)
    correct(db, correction=None, rating=1.0)
    correct(db, "alice")
    count, oldest = db.waiting()
    assert count == 3
    assert before <= oldest <= now_utc()
    for status in ("failed", "rejected", "cancelled", "running"):
        ended(db, status)
    assert db.waiting() == (3, oldest)
    ended(db, "succeeded")
    count, oldest = db.waiting()
    assert (count, oldest > before) == (1, True)
    correct(db)
    ended(db, "rejected")
    assert db.waiting() == (2, oldest)


@pytest.mark.parametrize(
    ("statuses", "failed"),
    [
        ((), 0),
        (("failed", "failed"), 2),
        (("failed", "failed", "succeeded"), 0),
        (("failed", "rejected", "failed"), 1),
        (("failed", "cancelled", "failed", "running"), 2),
    ],
)
def test_failures_in_a_row_are_counted_since_the_last_verdict(db, statuses, failed):
    for status in statuses:
        ended(db, status)
    ended(db, "succeeded", "alice")
    assert db.jobs.failed_in_a_row() == failed


def test_the_profile_that_has_most_failures_in_a_row_counts(db):
    for profile, count in (("alice", 1), ("bob", 3), ("carol", 2)):
        for _ in range(count):
            ended(db, "failed", profile)
    ended(db, "succeeded")
    assert db.jobs.failed_in_a_row() == 3


def test_scheduled_runs_are_counted_by_outcome(db):
    for hours, outcome in enumerate(["ran", "skipped", "skipped"]):
        when = now_utc() + timedelta(hours=hours)
        db.scheduled_runs.record(ScheduledRun("default", when, when, outcome, "why"))
    assert db.scheduled_runs.counts() == {"ran": 1, "skipped": 2}
