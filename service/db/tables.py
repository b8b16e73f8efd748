"""The current tables; a test compares them with the result of `migrations/`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
    or_,
    select,
)

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"  # one width, so that text order is time order


class DamagedValue(ValueError):
    """A stored value is none of its column's kind."""


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime, kept as UTC text that sorts by time."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Convert to text for the database; a naive datetime is a bug of ours."""
        if value is None:
            return None
        assert value.tzinfo is not None, "a datetime without a timezone"
        moment = value.astimezone(UTC)
        return f"{moment.year:04d}{moment.strftime(TIME_FORMAT.removeprefix('%Y'))}"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Convert the stored text to an aware datetime. Raises DamagedValue."""
        try:
            return None if value is None else datetime.strptime(value, TIME_FORMAT).replace(tzinfo=UTC)
        except (TypeError, ValueError) as error:
            raise DamagedValue(str(error)) from error


metadata = MetaData(naming_convention=NAMING)

interactions = Table(
    "interactions",
    metadata,
    Column("seq", Integer, primary_key=True),  # the order in which rows came; never leaves db/
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("profile", String(64), nullable=False),
    Column("messages", JSON(none_as_null=True), nullable=False),
    Column("parameters", JSON(none_as_null=True), nullable=False),
    Column("response", Text, nullable=False),
    Column("adapter_version", Integer),
    Column("finish_reason", String(20), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("generated_tokens", Integer, nullable=False),
    Column("seed", Integer),
    Column("recalled", JSON(none_as_null=True)),
    Column("conversation", String(64), index=True),
    sqlite_autoincrement=True,
)

stored_feedback = Table(
    "feedback",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("profile", String(64), nullable=False),
    Column("interaction_id", String(40), ForeignKey("interactions.id", ondelete="SET NULL"), index=True),
    Column("messages", JSON(none_as_null=True), nullable=False),  # its own copy: outlives the interaction
    Column("response", Text, nullable=False),
    Column("adapter_version", Integer),
    Column("rating", Float),
    Column("correction", Text),
    Column("comment", Text),
    Column("tags", JSON(none_as_null=True), nullable=False),
    Column("source", String(20), nullable=False, server_default="given"),
    Column("idempotency_key", String(200), unique=True),
    Column("request_sha256", String(64)),
    Column("file", String(40), index=True),  # that it was uploaded in
    CheckConstraint("rating IS NULL OR (rating >= -1 AND rating <= 1)", name="rating_range"),
    Index("ix_feedback_profile_seq", "profile", "seq"),
    sqlite_autoincrement=True,
)

imports = Table(  # at most one: the rows of feedback, by number, of an import that is not complete
    "imports",
    metadata,
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("last", Integer, nullable=False),
)

files = Table(  # uploaded, without their text: that is the rows of feedback that name them
    "files",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("name", Text, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("profile", String(64)),  # that has taken it up; until then none of its rows is seen
    Column("expires", UtcTime),
    Column("uploader", String(64)),  # the profile that its token is bound to; null for the owner
    sqlite_autoincrement=True,
)

NOBODY = ""  # the profile of uploaded rows that none has taken up
_first, _last = (func.coalesce(select(func.min(imports.c[name])).scalar_subquery(), 0) for name in ("first", "last"))
_unused = select(files.c.id).where(files.c.profile.is_(None))
# All of it but for what is being imported, or was uploaded and is nobody's yet, for reading; written is
# `stored_feedback`.
feedback = (
    select(stored_feedback)
    .where(
        ~stored_feedback.c.seq.between(_first, _last),
        stored_feedback.c.profile != NOBODY,
        or_(stored_feedback.c.file.is_(None), stored_feedback.c.file.not_in(_unused)),
    )
    .subquery("feedback")
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("profile", String(64), nullable=False),
    Column("trigger", String(20), nullable=False),
    Column("status", String(20), nullable=False, index=True),
    Column("created", UtcTime, nullable=False),
    Column("started", UtcTime),
    Column("finished", UtcTime),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("spec", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("verdict", JSON(none_as_null=True)),
    Column("version", Integer),
    Column("budget_bytes", Integer),
    Column("peak_bytes", Integer),
    Column("reason", Text),
    Column("pauses", JSON(none_as_null=True)),
    Column("fine_tuning", JSON(none_as_null=True)),
    CheckConstraint(
        "status IN ('queued', 'running', 'paused', 'succeeded', 'rejected', 'failed', 'cancelled')", name="status_known"
    ),
    sqlite_autoincrement=True,
)

erasures = Table(
    "erasures",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("profiles", JSON(none_as_null=True), nullable=False),
    Column("feedback", JSON(none_as_null=True), nullable=False),
    Column("interactions", Integer, nullable=False),
    Column("versions", JSON(none_as_null=True), nullable=False),
    Column("stages", JSON(none_as_null=True), nullable=False),
    sqlite_autoincrement=True,
)

profile_tokens = Table(  # each is the sha256 of what it tells, which has 192 random bits
    "profile_tokens",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("profile", String(64), nullable=False),
    Column("label", Text, nullable=False),
    Column("token_sha256", String(64), nullable=False),
    sqlite_autoincrement=True,
)

sessions = Table(  # of browsers
    "sessions",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
    Column("last_used", UtcTime, nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False),
    Column("client", Text, nullable=False),
    Column("profile", String(64)),  # that the session is bound to; null for the owner's
    sqlite_autoincrement=True,
)

erased = Table(  # ids of what was deleted, see `service.db.erased`
    "erased",
    metadata,
    Column("salt", LargeBinary, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)

runs = Table(
    "runs",
    metadata,
    Column("profile", String(64), primary_key=True),
    Column("last_run", UtcTime, nullable=False),
)

scheduled_runs = Table(
    "scheduled_runs",
    metadata,
    Column("profile", String(64), primary_key=True),
    Column("scheduled", UtcTime, primary_key=True),
    Column("decided", UtcTime, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("job_id", String(40)),
    CheckConstraint("outcome IN ('waiting', 'missed', 'skipped', 'ran')", name="outcome_known"),
)
