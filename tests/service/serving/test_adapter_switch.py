"""The switch with a real engine: the store's pointer and what replies are generated with move together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from lars_agent.errors import AdapterCorrupt
from lars_agent.models.library import InstalledModel
from lars_agent.runtime.engine import Engine
from lars_agent.store import adapters
from lars_agent.store.adapters import ADAPTER_FILES
from service.serving.adapter_switch import AdapterSwitch
from tests.runtime.conftest import publish


@pytest.fixture
def engine(opened, store) -> Iterator[Engine]:
    made = Engine(opened, store, threads=1)
    yield made
    made.close()


@pytest.fixture
def switch(opened, store, engine, tmp_path) -> AdapterSwitch:
    installed = InstalledModel("tiny", tmp_path, "tiny", None, opened.sha256, bytes=0, installed="")
    return AdapterSwitch(store, lambda: nullcontext(engine), lambda: nullcontext(engine), lambda: installed)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files whose bytes are hashed, in order."""
    names, sha256_of = [], adapters.sha256_of

    def record(path: Path, **options: bool) -> str:
        names.append(path.name)
        return sha256_of(path, **options)

    monkeypatch.setattr(adapters, "sha256_of", record)
    return names


def test_activation_hashes_the_bytes_of_an_adapter_once_loaded_before_or_not(
    switch, store, engine, opened, tmp_path, hashed
):
    versions = [publish(store, opened, tmp_path, seed) for seed in (1, 2)]
    for version in (*versions, versions[0]):
        hashed.clear()
        switch.activate("default", version)
        assert sorted(hashed) == sorted(ADAPTER_FILES)
        assert store.active("default") == engine.serving("default") == version


def test_loaded_version_whose_files_have_been_damaged_since_is_refused(switch, store, engine, opened, tmp_path):
    good, damaged = (publish(store, opened, tmp_path, seed) for seed in (1, 2))
    switch.activate("default", damaged)
    switch.activate("default", good)
    weights = store.folder("default", damaged) / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"damaged")
    with pytest.raises(AdapterCorrupt):
        switch.activate("default", damaged)
    assert store.active("default") == engine.serving("default") == good
