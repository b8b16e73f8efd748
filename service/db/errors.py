"""What can go wrong with the database, beyond a bug of ours."""

from __future__ import annotations

from lars_agent.errors import LarsError


class DatabaseError(LarsError):
    """The database cannot do what was asked."""


class DatabaseTooNew(DatabaseError):
    """The file was written by a newer lars-agent; it has been left as it is."""


class DatabaseUnusable(DatabaseError):
    """The file cannot be opened, is no database, or is damaged."""


class DatabaseBusy(DatabaseError):
    """Another process has held the database for too long; ask again in a moment."""


class RecordNotFound(DatabaseError):
    """There is no row with this id."""


class InteractionNotFound(RecordNotFound):
    """There is no such interaction."""


class FeedbackNotFound(RecordNotFound):
    """There is no such feedback."""


class JobNotFound(RecordNotFound):
    """There is no such job."""


class IdempotencyConflict(DatabaseError):
    """The key has been used before, with another body."""
