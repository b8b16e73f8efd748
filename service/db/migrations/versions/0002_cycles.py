"""Outcome of each scheduled run; reason and pauses of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the reason and the pauses of jobs, and the table of cycles."""
    op.add_column("jobs", sa.Column("reason", sa.Text))
    op.add_column("jobs", sa.Column("pauses", sa.JSON))
    op.create_table(
        "cycles",
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("scheduled", sa.String(27), nullable=False),
        sa.Column("decided", sa.String(27), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.PrimaryKeyConstraint("profile", "scheduled", name=op.f("pk_cycles")),
        sa.CheckConstraint("outcome IN ('waiting', 'missed', 'skipped', 'ran')", name=op.f("ck_cycles_outcome_known")),
    )
