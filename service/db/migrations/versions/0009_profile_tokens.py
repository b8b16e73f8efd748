"""Tokens of profiles, and whose an uploaded file is before a profile has taken it up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of tokens and the profile that uploaded a file."""
    op.add_column("files", sa.Column("uploader", sa.String(64)))
    op.create_table(
        "profile_tokens",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_profile_tokens")),
        sa.UniqueConstraint("id", name=op.f("uq_profile_tokens_id")),
        sqlite_autoincrement=True,
    )
