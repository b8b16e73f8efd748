"""Rename the table `cycles` to `scheduled_runs`, its constraints with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = "profile, scheduled, decided, outcome, reason, job_id"


def upgrade() -> None:
    """Create `scheduled_runs` with the rows of `cycles`: SQLite renames a table, but none of its constraints."""
    op.create_table(
        "scheduled_runs",
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("scheduled", sa.String(27), nullable=False),
        sa.Column("decided", sa.String(27), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("job_id", sa.String(40)),
        sa.PrimaryKeyConstraint("profile", "scheduled", name=op.f("pk_scheduled_runs")),
        sa.CheckConstraint(
            "outcome IN ('waiting', 'missed', 'skipped', 'ran')", name=op.f("ck_scheduled_runs_outcome_known")
        ),
    )
    op.execute(f"INSERT INTO scheduled_runs ({COLUMNS}) SELECT {COLUMNS} FROM cycles")
    op.drop_table("cycles")
