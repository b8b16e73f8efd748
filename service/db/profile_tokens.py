"""Tokens that stand for one profile alone. Only their hashes are kept, here and in the database."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping

from sqlalchemy import Engine, delete, insert, select

from service.db.engine import now_of, reading, writing
from service.db.errors import ProfileTokenNotFound
from service.db.records import ProfileTokenRecord, new_id
from service.db.tables import profile_tokens


class ProfileTokens:
    """The tokens in the database behind `engine`, of which this process is the only writer.

    A token is known by its hash: it has so many random bits that nobody finds it by trying, and whoever times the
    comparison of hashes learns nothing of it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._profiles: Mapping[str, str] = {}  # by the hash of a token
        self._read()

    def add(self, profile: str, label: str, token: str) -> ProfileTokenRecord:
        """Store the hash of a new token."""
        created = now_of(self._engine)
        record = ProfileTokenRecord(new_id("t", created), created, profile, label)
        with writing(self._engine) as connection:
            connection.execute(insert(profile_tokens), {**vars(record), "token_sha256": hashed(token)})
        self._read()
        return record

    def list(self, profile: str) -> builtins.list[ProfileTokenRecord]:
        """Return the profile's tokens, oldest first."""
        row = profile_tokens.c
        query = select(row.id, row.created, row.profile, row.label).where(row.profile == profile).order_by(row.seq)
        with reading(self._engine) as connection:
            return [ProfileTokenRecord(**found) for found in connection.execute(query).mappings()]

    def revoke(self, profile: str, token_id: str) -> ProfileTokenRecord:
        """Delete and return a token of the profile: it, and the sessions for it, end. Raises ProfileTokenNotFound."""
        found = next((record for record in self.list(profile) if record.id == token_id), None)
        if found is None:
            raise ProfileTokenNotFound(f"the profile {profile} has no token {token_id!r}")
        with writing(self._engine) as connection:
            connection.execute(delete(profile_tokens).where(profile_tokens.c.id == token_id))
        self._read()
        return found

    def profile_of(self, token: str) -> str | None:
        """Return the profile for which a token stands; None if it is none."""
        return self._profiles.get(hashed(token)) if self._profiles and token else None

    def is_profile_s(self, token_hash: str, profile: str) -> bool:
        """Return whether the token of that hash stands for the profile, and has not been revoked."""
        return self._profiles.get(token_hash) == profile

    def profiles(self) -> set[str]:
        """Return the profiles that have a token."""
        return set(self._profiles.values())

    def _read(self) -> None:
        row = profile_tokens.c
        with reading(self._engine) as connection:
            found = connection.execute(select(row.token_sha256, row.profile)).all()
        self._profiles = {token_hash: profile for token_hash, profile in found}


def hashed(secret: str) -> str:
    """Return the hash by which a token is known."""
    return hashlib.sha256(secret.encode()).hexdigest()
