"""The loaded adapters, and swaps while requests run.

A request keeps the adapter object it was submitted with, so a swap is one assignment: running requests keep theirs, the
next one gets the new one. Loading and verifying the sha256s happen before that, in `resolve`, while the incumbent
serves; if they fail, it continues to serve.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedModel

from lars_agent.lars import LarsAdapter, load_adapter
from lars_agent.store.adapters import AdapterStore

MAX_INACTIVE = 3  # loaded versions beside the active ones: requested by number, or active before


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter prepared for the backend, and its version; both None for the base model."""

    adapter: Any | None = None
    version: int | None = None


BASE = LoadedAdapter()


class AdapterCache:
    """The adapters in memory: the active one of each profile, and the last few other versions used."""

    def __init__(
        self, model: PreTrainedModel, store: AdapterStore, base_sha256: str, prepare: Callable[[LarsAdapter], Any]
    ) -> None:
        self._model, self._store, self._base_sha256, self._prepare = model, store, base_sha256, prepare
        self._active: dict[str, LoadedAdapter] = {}
        self._inactive: OrderedDict[tuple[str, int], LoadedAdapter] = OrderedDict()
        self._forgotten: set[tuple[str, int | None]] = set()
        self._swap_lock, self._load_lock, self._keep_lock = threading.Lock(), threading.Lock(), threading.Lock()

    def resolve(self, profile: str, version: int | Literal["active"] | None) -> LoadedAdapter:
        """Return a version, loaded if necessary. Raises AdapterNotFound, AdapterCorrupt or AdapterIncompatible."""
        if version is None:
            return BASE
        return self._active.get(profile, BASE) if version == "active" else self._get(profile, version)

    def prepare(self, profile: str, version: int) -> bool:
        """Load `version` unless it is in memory; return True if its files have been verified just now for that.

        Raises what `resolve` raises.
        """
        was_loaded = self.is_ready(profile, version)
        self._get(profile, version)
        return not was_loaded

    def is_ready(self, profile: str, version: int) -> bool:
        """Return True if `version` is loaded."""
        return self._find(profile, version) is not None

    def swap(self, profile: str, version: int | None) -> None:
        """Serve new requests of `profile` with `version`, until the next swap.

        Raises what `resolve` raises, and then nothing has changed.
        """
        with self._swap_lock:
            previous = self._active.get(profile, BASE)
            self._active[profile] = self.resolve(profile, version)
            if previous.version is not None:
                self._keep(profile, previous.version, previous)

    def forget(self, profile: str, versions: Collection[int]) -> None:
        """Free `versions`, which are deleted for good; where one of them is active, the base model is from now on."""
        with self._swap_lock, self._load_lock, self._keep_lock:
            self._forgotten.update((profile, version) for version in versions)
            for version in versions:
                self._inactive.pop((profile, version), None)
            if self.serving(profile) in versions:
                self._active[profile] = BASE

    def is_forgotten(self, profile: str, version: int | None) -> bool:
        """Return True if the version was freed by `forget`; who has just resolved it has to ask."""
        return (profile, version) in self._forgotten

    def serving(self, profile: str) -> int | None:
        """Return the version that serves `profile` now; None for the base model."""
        return self._active.get(profile, BASE).version

    def _get(self, profile: str, version: int) -> LoadedAdapter:
        loaded = self._find(profile, version)  # without the lock: no waiting for other versions to load
        if loaded is None:
            with self._load_lock:
                loaded = self._find(profile, version) or self._load(profile, version)
                self._keep(profile, version, loaded)
        elif loaded is not self._active.get(profile):
            self._keep(profile, version, loaded)
        return loaded

    def _find(self, profile: str, version: int) -> LoadedAdapter | None:
        active = self._active.get(profile, BASE)
        return active if active.version == version else self._inactive.get((profile, version))

    def _keep(self, profile: str, version: int, loaded: LoadedAdapter) -> None:
        with self._keep_lock:
            if (profile, version) in self._forgotten:
                return
            self._inactive[profile, version] = loaded
            self._inactive.move_to_end((profile, version))
            while len(self._inactive) > MAX_INACTIVE:
                self._inactive.popitem(last=False)

    def _load(self, profile: str, version: int) -> LoadedAdapter:
        folder = self._store.verify(profile, version, self._base_sha256)
        return LoadedAdapter(self._prepare(load_adapter(self._model, folder)), version)
