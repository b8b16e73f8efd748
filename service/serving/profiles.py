"""Profiles that exist."""

from __future__ import annotations

from lars_agent.store.adapters import AdapterStore
from lars_agent.store.names import DEFAULT_PROFILE
from service.db import Database


class Profiles:
    """Profiles that exist: `default`, and all that have feedback or ever had an adapter."""

    def __init__(self, db: Database, store: AdapterStore) -> None:
        self._db, self._store = db, store

    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted({DEFAULT_PROFILE, *self._db.feedback.profiles(), *self._store.profiles()})

    def __contains__(self, name: str) -> bool:
        """Return whether the profile exists, without listing the others: requests ask this."""
        return name == DEFAULT_PROFILE or self._store.has_profile(name) or self._db.feedback.has_profile(name)


class OwnProfile:
    """The one profile that there is for whoever may use it alone, from the beginning."""

    def __init__(self, name: str) -> None:
        self._name = name

    def names(self) -> list[str]:
        """It alone."""
        return [self._name]

    def __contains__(self, name: str) -> bool:
        """Return whether it is that one."""
        return name == self._name
