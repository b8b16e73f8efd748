"""What a cycle works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Protocol

from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.settings import Settings


def label(version: int | None) -> str:
    """What messages call an adapter version."""
    return "the base model" if version is None else f"v{version}"


class BaseModel(Protocol):
    """What a cycle asks of the installed base model."""

    @property
    def folder(self) -> Path:
        """The Hugging Face folder."""

    @property
    def reference(self) -> str:
        """What it was installed by."""

    @property
    def revision(self) -> str | None:
        """The commit it was installed from, where there is one."""

    @property
    def sha256(self) -> str:
        """The digest of its weights."""


class Endpoint(Protocol):
    """What puts a version in use."""

    def prepare(self, profile: str, version: int) -> None:
        """`version` is loaded and checked, while the incumbent serves. Raises where it cannot serve."""

    def swap(self, profile: str) -> int | None:
        """The store's active version serves the profile. Raises, and changes nothing, where it cannot."""


@dataclass(frozen=True)
class CycleParts:
    """What a cycle works with.

    Attributes:
        base_model: the model in use; raises ModelLoading until there is one.
        endpoint: what serves the versions.
        pointer: held by whoever moves a pointer to another version, from looking at it until it is served.
    """

    settings: Settings
    db: Database
    store: AdapterStore
    base_model: Callable[[], BaseModel]
    endpoint: Endpoint
    pointer: Lock = field(default_factory=Lock)

    def folder(self, job_id: str) -> Path:
        """The job directory."""
        return self.settings.jobs_dir / job_id

    def serve(self, profile: str, version: int | None) -> None:
        """`version` serves the profile, loaded and checked before the pointer moves; the caller holds `pointer`.

        Raises what the endpoint and `AdapterStore.activate` raise.
        """
        if version is not None:
            self.endpoint.prepare(profile, version)
        self.store.activate(profile, version, self.base_model().sha256)
        self.endpoint.swap(profile)
