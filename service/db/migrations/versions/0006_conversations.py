"""Interactions belong to conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the conversation of an interaction; those before have none."""
    op.add_column("interactions", sa.Column("conversation", sa.String(64)))
    op.create_index("ix_interactions_conversation", "interactions", ["conversation"])
