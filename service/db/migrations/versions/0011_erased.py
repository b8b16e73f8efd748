"""The ids of what was deleted, salted and hashed: no backup may bring it back."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from service.db.erased import note

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, with the ids of the feedback that earlier erasures name."""
    op.create_table(
        "erased",
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("salt", "digest", name=op.f("pk_erased")),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    for named in connection.execute(sa.text("SELECT feedback FROM erasures")).scalars().all():
        note(connection, json.loads(named))
