"""Browsers that were let in: each has a secret of its own, and can be shown the door without the others."""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import replace
from datetime import timedelta

import structlog

from lars_agent.errors import LarsError
from service.db import Database
from service.db.profile_tokens import hashed
from service.db.records import SessionRecord
from service.process.access_token import AccessToken
from service.process.one_time_codes import OneTimeCodes
from service.process.user_agents import name_of

log = structlog.get_logger(__name__)

LASTS = timedelta(days=30)  # after the last use
NOTED_EVERY = timedelta(minutes=5)  # that it is used; each note is a write on the disk
SECRET_BYTES = 32


class Sessions:
    """The sessions that count now: those that were begun with the present `token`, or with one of a profile.

    A new token ends all of the owner's, and the codes of links too. Raises as `Database` does.
    """

    def __init__(self, db: Database, token: AccessToken) -> None:
        self.token, self.codes = token, OneTimeCodes()
        self._rows, self._bound, self._now = db.sessions, db.profile_tokens, db.now
        self._lock = threading.Lock()
        self._begun_with: str | None = None
        self._token_hash = ""
        self._by_hash: dict[str, SessionRecord] = {}
        self._known()

    def begin(self, user_agent: str, bound_token: str = "") -> str:
        """Begin a session in the browser with that header User-Agent, and return its secret.

        It is the owner's, or by `bound_token` that token's profile's.
        """
        secret, profile = secrets.token_urlsafe(SECRET_BYTES), self._bound.profile_of(bound_token)
        self._known()
        token_hash = self._token_hash if profile is None else hashed(bound_token)
        record = self._rows.add(hashed(secret), token_hash, name_of(user_agent), profile)
        with self._lock:
            self._by_hash[record.secret_hash] = record
        return secret

    def find(self, secret: str | None) -> SessionRecord | None:
        """Return the session with that secret."""
        record = self._known().get(hashed(secret)) if secret else None
        return record if record is not None and self._counts(record) else None

    def is_due(self, record: SessionRecord) -> bool:
        """Return True if its use should be noted again."""
        return self._now() - record.last_used >= NOTED_EVERY

    def note_use(self, record: SessionRecord) -> None:
        """Note that it is used now; a disk that does not take it is no reason to refuse anybody."""
        with self._lock:
            if record.secret_hash in self._by_hash:
                self._by_hash[record.secret_hash] = replace(record, last_used=self._now())
        try:
            self._rows.use(record.id)
        except LarsError as error:
            log.warning("session_use_not_noted", error=str(error))

    def list(self) -> list[SessionRecord]:
        """Return all sessions, the one used last first."""
        found = filter(self._counts, self._known().values())
        return sorted(found, key=lambda record: record.last_used, reverse=True)

    def end(self, session_id: str) -> None:
        """End a session. Raises SessionNotFound."""
        self._rows.delete(session_id)
        with self._lock:
            self._by_hash = {key: one for key, one in self._by_hash.items() if one.id != session_id}

    def _counts(self, record: SessionRecord) -> bool:
        is_revoked = record.profile is not None and not self._bound.is_profile_s(record.token_hash, record.profile)
        return not is_revoked and record.last_used >= self._now() - LASTS

    def _known(self) -> dict[str, SessionRecord]:
        """Return the sessions by hash, read again if the token was replaced; none while it cannot be read."""
        token = self.token.value
        if token is None:
            return {}
        if token != self._begun_with:
            with self._lock:
                self._token_hash = _slow_hash(token)
                kept = self._rows.keep(self._token_hash, self._now() - LASTS)
                self._by_hash = {record.secret_hash: record for record in kept}
                self.codes.clear()
                self._begun_with = token
        return self._by_hash


def _slow_hash(token: str) -> str:
    """Return a hash of the token, which may be words that somebody chose and others could guess."""
    return hashlib.scrypt(token.encode(), salt=b"lars-agent sessions", n=2**14, r=8, p=1, dklen=32).hex()
