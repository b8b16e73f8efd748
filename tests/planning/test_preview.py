"""What a model would need, read from its configuration: of a folder, the default model, and a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lars_agent.errors import ModelNotFound, ModelUnsupported
from lars_agent.models.library import ModelLibrary
from lars_agent.planning.preview import preview
from tests.models.small_hub import SmallHub, small_hub
from tests.tiny import save_tiny

BUDGET = 2 * 2**30
DEFAULT = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m-instruct"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def hub(tiny) -> Iterator[SmallHub]:
    """A hub that has `org/tiny`, a repository with other files beside the model."""
    with small_hub() as served:
        served.add("org/tiny", tiny)
        served.extra = {"model.bin": 9_000_000, "onnx/config.json": 9_000_000}
        yield served


def test_a_folder_needs_what_its_model_and_training_take(tiny):
    found = preview(str(tiny), "float32", BUDGET)
    assert (found.name, found.download_bytes, found.fits) == ("tiny", 0, True)
    assert 0 < found.disk_bytes < found.serving_bytes < found.training_bytes < BUDGET
    assert not preview(str(tiny), "float32", found.least_training_bytes - 1).fits


def test_the_default_model_s_shape_is_shipped():
    found = preview("default", "bfloat16", BUDGET)
    assert (found.name, found.disk_bytes) == ("smollm2-135m-instruct", 269_030_016)
    assert found.download_bytes == 89 * 2**20
    four = preview("default", "int4", BUDGET)
    assert four.serving_bytes < found.serving_bytes - 150 * 2**20


def test_the_shipped_shape_is_that_of_the_model():
    if not DEFAULT.is_dir():
        pytest.skip("the default model is not here")
    model = ModelLibrary(DEFAULT.parent).get(DEFAULT.name)
    shipped, here = preview("default", "bfloat16", BUDGET), preview(str(model.folder), "bfloat16", BUDGET)
    assert (shipped.disk_bytes, shipped.fits) == (here.disk_bytes, here.fits)
    assert model.bytes == pytest.approx(shipped.disk_bytes, rel=0.05)


def test_of_a_hub_s_model_only_the_configuration_is_fetched(hub, tiny, tmp_path):
    def ask(reference: str) -> dict[str, Any]:
        environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "lars_agent.planning.preview", reference, "auto", str(BUDGET)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return dict(json.loads(done.stdout))

    found = ask("org/tiny")
    assert (found["name"], found["fits"]) == ("org--tiny", True)
    assert found["download_bytes"] == sum(path.stat().st_size for path in tiny.iterdir())
    about = [one.path.rpartition("/")[2] for one in hub.asked if "org/tiny" in one.path]
    assert about == ["tiny", "config.json"]
    assert "the hub has no 'org/none'" in str(ask("org/none"))


def test_what_is_no_decoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(ModelUnsupported, match="no configuration"):
        preview(str(tmp_path), "auto", BUDGET)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelUnsupported, match="no configuration"):
        preview(str(tmp_path / "bad.gguf"), "auto", BUDGET)
    with pytest.raises(ModelNotFound):
        preview("nothing", "auto", BUDGET)
