"""Which adapter serves which profile, and how it is replaced while requests run.

A request is pinned to an adapter object when it comes in, so a swap is one assignment: requests in flight keep theirs,
the next one gets the other. Loading, checking the sha256s and making the tensors resident all happen before that, in
`prepare`, while the incumbent serves; when any of it fails, it goes on serving.
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

KEPT = 3  # versions beside those in use: what was asked for by number, and what was in use before


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter, made ready for the backend that serves it, and its version; both None for the base model."""

    adapter: Any | None = None
    version: int | None = None


BASE = LoadedAdapter()


class AdapterCache:
    """The adapters in memory: the active one of each profile, and a few that requests asked for by version."""

    def __init__(
        self, model: PreTrainedModel, store: AdapterStore, base_sha256: str, prepared: Callable[[LarsAdapter], Any]
    ) -> None:
        self._model, self._store, self._base_sha256, self._prepared = model, store, base_sha256, prepared
        self._active: dict[str, LoadedAdapter] = {}
        self._ready: OrderedDict[tuple[str, int], LoadedAdapter] = OrderedDict()
        self._swapping, self._loading, self._keeping = threading.Lock(), threading.Lock(), threading.Lock()

    def resolve(self, profile: str, version: int | Literal["active"] | None) -> LoadedAdapter:
        """The adapter a request is served with. Raises AdapterNotFound, AdapterCorrupt or AdapterIncompatible."""
        if version is None:
            return BASE
        if version == "active":
            active = self._active.get(profile)
            if active is None:
                self.swap(profile)
            return self._active[profile]
        return self._version(profile, version)

    def prepare(self, profile: str, version: int) -> None:
        """A swap to `version` will find it loaded and checked. Raises what loading raises."""
        self._version(profile, version)

    def is_ready(self, profile: str, version: int) -> bool:
        """Whether `version` need not be loaded."""
        return self._held(profile, version) is not None

    def swap(self, profile: str) -> int | None:
        """New requests of `profile` are served by the version that the store calls active; returns it.

        Raises what loading raises, and then nothing has changed.
        """
        with self._swapping:
            version = self._store.active(profile)
            left = self._active.get(profile, BASE)
            self._active[profile] = BASE if version is None else self._version(profile, version)
            if left.version is not None:
                self._keep(profile, left.version, left)
            return version

    def serve_base(self, profile: str) -> None:
        """The base model serves new requests of `profile`, whatever the store calls active, until the next swap."""
        with self._swapping:
            self._active[profile] = BASE

    def serving(self, profile: str) -> int | None:
        """The version that serves `profile` now."""
        return self._active.get(profile, BASE).version

    def _version(self, profile: str, version: int) -> LoadedAdapter:
        pinned = self._held(profile, version)  # what is ready waits for nobody's loading
        if pinned is None:
            with self._loading:
                pinned = self._held(profile, version) or self._load(profile, version)
                self._keep(profile, version, pinned)
        elif pinned is not self._active.get(profile):
            self._keep(profile, version, pinned)
        return pinned

    def _held(self, profile: str, version: int) -> LoadedAdapter | None:
        active = self._active.get(profile, BASE)
        return active if active.version == version else self._ready.get((profile, version))

    def _keep(self, profile: str, version: int, pinned: LoadedAdapter) -> None:
        with self._keeping:
            self._ready[profile, version] = pinned
            self._ready.move_to_end((profile, version))
            while len(self._ready) > KEPT:
                self._ready.popitem(last=False)

    def _load(self, profile: str, version: int) -> LoadedAdapter:
        folder = self._store.verify(profile, version, self._base_sha256)
        return LoadedAdapter(self._prepared(load_adapter(self._model, folder)), version)
