"""Errors of the database."""

from __future__ import annotations

from typing import Self

from lars_agent.errors import LarsError


class DatabaseError(LarsError):
    """Base of the database's errors."""


class DatabaseTooNew(DatabaseError):
    """The file was written by a newer lars-agent; it was not changed."""


class DatabaseUnusable(DatabaseError):
    """The file cannot be opened, is not a database, or is damaged."""


class DatabaseBusy(DatabaseError):
    """Another process has locked the database for too long; try again."""


class RecordNotFound(DatabaseError):
    """There is no record with this id."""

    @classmethod
    def of(cls, record_id: str) -> Self:
        """Return the error for this id."""
        return cls(f"there is no {cls.__name__.removesuffix('NotFound').lower()} {record_id!r}")


class InteractionNotFound(RecordNotFound):
    """There is no such interaction."""


class ConversationNotFound(RecordNotFound):
    """There is no such conversation."""


class FeedbackNotFound(RecordNotFound):
    """There is no such feedback."""


class ErasureNotFound(RecordNotFound):
    """There is no such erasure."""


class FileNotFound(RecordNotFound):
    """There is no such file."""


class ProfileTokenNotFound(RecordNotFound):
    """There is no such token of a profile."""


class JobNotFound(RecordNotFound):
    """There is no such job."""


class SessionNotFound(RecordNotFound):
    """There is no such session."""


class IdempotencyConflict(DatabaseError):
    """The key was used before, with another body."""
