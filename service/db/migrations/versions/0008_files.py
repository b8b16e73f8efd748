"""Uploaded files are rows of feedback under the file's id; a job remembers what was asked of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of files, the file that feedback came in, and the request of a job of fine-tuning."""
    op.add_column("feedback", sa.Column("file", sa.String(40)))
    op.create_index("ix_feedback_file", "feedback", ["file"])
    op.add_column("jobs", sa.Column("fine_tuning", sa.JSON))
    op.create_table(
        "files",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("profile", sa.String(64)),
        sa.Column("expires", sa.String(27)),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_files")),
        sa.UniqueConstraint("id", name=op.f("uq_files_id")),
        sqlite_autoincrement=True,
    )
