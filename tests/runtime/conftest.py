from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lars_agent.files import sha256_of
from lars_agent.lars import LarsAdapter, LarsConfig, save_adapter
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.manifest import AdapterManifest
from tests.lars.conftest import shake
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> OpenedModel:
    torch.set_num_threads(1)
    return open_model(save_tiny(tmp_path_factory.mktemp("model")), torch.float32)


@pytest.fixture
def store(tmp_path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def publish(store: AdapterStore, opened: OpenedModel, folder: Path, seed: int, profile: str = "default") -> int:
    """A version with random weights, not yet active; returns its number."""
    adapter = shake(LarsAdapter.for_model(opened.model, LarsConfig(rank=4)), std=0.6, seed=seed)
    candidate = folder / f"candidate-{profile}-{seed}"
    save_adapter(adapter, candidate, base_model="tiny", revision=None)
    return publish_candidate(store, opened.sha256, candidate, profile).version


def publish_candidate(store: AdapterStore, base_sha256: str, candidate: Path, profile: str) -> AdapterManifest:
    manifest = AdapterManifest(
        profile=profile,
        version=0,
        parent=store.active(profile),
        created="2026-11-24T03:00:00Z",
        job_id="j-1",
        base_model="tiny",
        base_model_revision=None,
        base_model_sha256=base_sha256,
        example_ids=(),
        config={},
        plan={},
        peak_bytes=None,
        budget_bytes=None,
        losses={},
        verdict={},
        files={path.name: sha256_of(path) for path in candidate.iterdir()},
    )
    return store.publish(profile, candidate, manifest)
