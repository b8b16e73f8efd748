"""Feedback that a person stated in a conversation is told from what they gave."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add where feedback comes from; what is there was given."""
    op.add_column("feedback", sa.Column("source", sa.String(20), nullable=False, server_default="given"))
