"""The first tables: interactions, feedback, jobs, and when each profile last ran."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables."""
    _create_interactions()
    _create_feedback()
    _create_jobs()
    op.create_table(
        "runs",
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("last_run", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("profile", name="pk_runs"),
    )


def _create_interactions() -> None:
    op.create_table(
        "interactions",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("adapter_version", sa.Integer),
        sa.Column("finish_reason", sa.String(20), nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("generated_tokens", sa.Integer, nullable=False),
        sa.Column("seed", sa.Integer),
        sa.PrimaryKeyConstraint("seq", name="pk_interactions"),
        sa.UniqueConstraint("id", name="uq_interactions_id"),
        sqlite_autoincrement=True,
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("interaction_id", sa.String(40)),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("adapter_version", sa.Integer),
        sa.Column("rating", sa.Float),
        sa.Column("correction", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("request_sha256", sa.String(64)),
        sa.CheckConstraint("rating IS NULL OR (rating >= -1 AND rating <= 1)", name=op.f("ck_feedback_rating_range")),
        sa.ForeignKeyConstraint(
            ["interaction_id"], ["interactions.id"], name="fk_feedback_interaction_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_feedback"),
        sa.UniqueConstraint("id", name="uq_feedback_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_feedback_idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_interaction_id", "feedback", ["interaction_id"])
    op.create_index("ix_feedback_profile_seq", "feedback", ["profile", "seq"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("trigger", sa.String(20), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("started", sa.String(27)),
        sa.Column("finished", sa.String(27)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("spec", sa.JSON),
        sa.Column("result", sa.JSON),
        sa.Column("verdict", sa.JSON),
        sa.Column("version", sa.Integer),
        sa.Column("budget_bytes", sa.Integer),
        sa.Column("peak_bytes", sa.Integer),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'rejected', 'failed', 'cancelled')",
            name=op.f("ck_jobs_status_known"),
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_status", "jobs", ["status"])
