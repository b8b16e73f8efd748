"""Alembic's entry: runs the migrations on the connection, and in the transaction, that `service.db.migrate` opened."""

from __future__ import annotations

from alembic import context

from service.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
