"""Browsers' sessions: of the secret in a browser's cookie only a hash is kept."""

from __future__ import annotations

import builtins
from datetime import datetime

from sqlalchemy import delete, insert, or_, select, update

from service.db.base import Records
from service.db.engine import now_of, writing
from service.db.errors import SessionNotFound
from service.db.records import SessionRecord, new_id
from service.db.tables import profile_tokens, sessions

BOUND = select(profile_tokens.c.token_sha256)


class Sessions(Records[SessionRecord]):
    """The sessions in the database behind `engine`."""

    table, record, not_found = sessions, SessionRecord, SessionNotFound

    def add(self, secret_hash: str, token_hash: str, client: str, profile: str | None = None) -> SessionRecord:
        """Store a session that begins now, with the token of that hash, in the browser `client`."""
        now = now_of(self._engine)
        record = SessionRecord(new_id("s", now), now, now, secret_hash, token_hash, client, profile)
        with writing(self._engine) as connection:
            connection.execute(insert(sessions), vars(record))
        return record

    def keep(self, token_hash: str, since: datetime) -> builtins.list[SessionRecord]:
        """Delete the owner's of another token, and those that were used last before `since`; return the others.

        Those of profiles are deleted with the tokens that they were begun with.
        """
        is_bound = sessions.c.profile.is_not(None)
        begun_with = or_(sessions.c.token_hash == token_hash, is_bound & sessions.c.token_hash.in_(BOUND))
        ended = or_(~begun_with, sessions.c.last_used < since)
        if self._count(ended):
            with writing(self._engine) as connection:
                connection.execute(delete(sessions).where(ended))
        return self._read(select(sessions).order_by(sessions.c.seq))

    def use(self, session_id: str) -> None:
        """Note that it is used now."""
        with writing(self._engine) as connection:
            used = update(sessions).where(sessions.c.id == session_id)
            connection.execute(used.values(last_used=now_of(self._engine)))

    def delete(self, session_id: str) -> None:
        """Delete it. Raises SessionNotFound."""
        with writing(self._engine) as connection:
            if not connection.execute(delete(sessions).where(sessions.c.id == session_id)).rowcount:
                raise SessionNotFound.of(session_id)
