"""Which adapter serves which profile, and how it is replaced while requests run.

A request is pinned to an adapter object when it comes in, so a swap is one assignment: requests in flight keep theirs,
the next one gets the other. Loading, checking the sha256s and making the tensors resident all happen before that; when
any of it fails, the incumbent goes on serving.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedModel

from lars_agent.lars import LarsAdapter, load_adapter
from lars_agent.store.adapters import AdapterStore

PINNED_KEPT = 2


@dataclass(frozen=True)
class Pinned:
    """An adapter, made ready for the backend that serves it, and its version; both None for the base model."""

    adapter: Any | None = None
    version: int | None = None


BASE = Pinned()


class AdapterSlots:
    """The adapters in memory: the active one of each profile, and a few that requests asked for by version."""

    def __init__(
        self, model: PreTrainedModel, store: AdapterStore, base_sha256: str, prepared: Callable[[LarsAdapter], Any]
    ) -> None:
        self._model, self._store, self._base_sha256, self._prepared = model, store, base_sha256, prepared
        self._active: dict[str, Pinned] = {}
        self._pinned: OrderedDict[tuple[str, int], Pinned] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(self, profile: str, version: int | Literal["active"] | None) -> Pinned:
        """The adapter a request is served with. Raises AdapterNotFound, AdapterCorrupt or AdapterIncompatible."""
        if version is None:
            return BASE
        if version == "active":
            active = self._active.get(profile)
            if active is None:
                self.swap(profile)
            return self._active[profile]
        active = self._active.get(profile, BASE)
        return active if active.version == version else self._by_version(profile, version)

    def swap(self, profile: str) -> int | None:
        """New requests of `profile` are served by the version that the store calls active; returns it.

        Raises what loading raises, and then nothing has changed.
        """
        with self._lock:
            version = self._store.active(profile)
            self._active[profile] = BASE if version is None else self._load(profile, version)
            return version

    def serve_base(self, profile: str) -> None:
        """The base model serves new requests of `profile`, whatever the store calls active, until the next swap."""
        with self._lock:
            self._active[profile] = BASE

    def serving(self, profile: str) -> int | None:
        """The version that serves `profile` now."""
        return self._active.get(profile, BASE).version

    def _by_version(self, profile: str, version: int) -> Pinned:
        with self._lock:
            pinned = self._pinned.get((profile, version)) or self._load(profile, version)
            self._pinned[profile, version] = pinned
            self._pinned.move_to_end((profile, version))
            while len(self._pinned) > PINNED_KEPT:
                self._pinned.popitem(last=False)
            return pinned

    def _load(self, profile: str, version: int) -> Pinned:
        folder = self._store.verify(profile, version, self._base_sha256)
        return Pinned(self._prepared(load_adapter(self._model, folder)), version)
