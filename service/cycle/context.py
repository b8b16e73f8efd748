"""The resources of a cycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lars_agent.models.library import InstalledModel
from lars_agent.store.adapters import AdapterStore
from service.db import Database
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings


@dataclass(frozen=True)
class CycleContext:
    """The resources of a cycle; `base_model` returns the model in use and raises ModelLoading until there is one."""

    settings: Settings
    db: Database
    store: AdapterStore
    base_model: Callable[[], InstalledModel]
    switch: AdapterSwitch

    def folder(self, job_id: str) -> Path:
        """Return the job directory."""
        return self.settings.jobs_dir / job_id
