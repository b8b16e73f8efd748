"""Erasures and their stages; the corrections in the prompt of each reply."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of erasures, and to interactions the ids of the feedback that was recalled for them."""
    op.add_column("interactions", sa.Column("recalled", sa.JSON))
    op.create_table(
        "erasures",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.String(27), nullable=False),
        sa.Column("profiles", sa.JSON, nullable=False),
        sa.Column("feedback", sa.JSON, nullable=False),
        sa.Column("interactions", sa.Integer, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("stages", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_erasures")),
        sa.UniqueConstraint("id", name=op.f("uq_erasures_id")),
        sqlite_autoincrement=True,
    )
