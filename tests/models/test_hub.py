"""Fetching from a small hub on loopback, over real HTTP."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lars_agent.errors import DiskFull, ModelCorrupt, ModelForbidden, ModelNotFound, ModelUnsupported, Offline
from lars_agent.files import sha256_of
from lars_agent.models import hub as hub_module
from lars_agent.models import library as library_module
from lars_agent.models.hub import transfer_message, transferred
from lars_agent.models.library import ModelLibrary
from lars_agent.runtime.model_check import check_model
from tests.models.remains import left
from tests.models.small_hub import SmallHub, small_hub
from tests.tiny import save_tiny

NAME = "org/tiny"
BIG_BYTES = 1_000_000
WAIT_S = 30
FETCH = (
    "import sys, tempfile; from pathlib import Path; from lars_agent.models import hub\n"
    "found = hub.find(sys.argv[1], Path(tempfile.mkdtemp()))\n"
    "hub.fetch(found, Path(sys.argv[2]), lambda message: print(message, flush=True))\n"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(monkeypatch, tmp_path, tiny) -> Iterator[SmallHub]:
    """A hub that has a tiny model, and a client without token that is not patient."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(hub_module, "WAITS_S", (0,))
    monkeypatch.setattr(library_module, "check_folder", check_model)
    with small_hub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.address)  # HF_ENDPOINT is read once
        urls = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", urls)
        served.add(NAME, tiny)
        yield served


@pytest.fixture
def big(hub, tmp_path) -> Path:
    """A model on the hub with weights of some chunks, which is not checked."""
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(BIG_BYTES))
    hub.add("org/big", folder)
    return folder


def fetched(reference: str, downloads: Path, told: list[str] | None = None) -> dict[str, Path]:
    """Fetch a model as a pull does, without checking it."""
    downloads.mkdir(exist_ok=True)
    temp = downloads.with_name("found")
    temp.mkdir(exist_ok=True)
    files = hub_module.fetch(hub_module.find(reference, temp), downloads, ([] if told is None else told).append)
    return {file.name: path for file, path in files}


def test_the_files_of_a_revision_become_a_model_that_is_pinned_to_its_commit(hub, tiny, tmp_path):
    other = save_tiny(tmp_path / "other", seed=1)
    first, second = hub.commit(NAME, "main"), hub.add(NAME, other, "v2")
    library = ModelLibrary(tmp_path / "models")
    told: list[str] = []
    models = [library.pull(NAME, told.append), library.pull(f"{NAME}@v2"), library.pull(f"{NAME}@{first}")]
    assert [model.revision for model in models] == [first, second, first]
    assert [model.sha256 == models[0].sha256 for model in models] == [True, False, True]
    assert left(library.folder) >= {"downloads", *(model.name for model in models)}
    assert not any((library.folder / "downloads").iterdir())
    done, total = next(found for one in reversed(told) if (found := transferred(one)))
    assert done == total == sum(path.stat().st_size for path in tiny.iterdir())


def test_a_download_that_is_killed_goes_on_where_it_was(hub, big, tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    hub.cuts = [700_000]
    hub.released.clear()
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", FETCH, "org/big", str(downloads)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + WAIT_S
        while not (kept := sum(path.stat().st_size for path in downloads.glob("model.*.part"))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    hub.released.set()
    kept = sum(path.stat().st_size for path in downloads.glob("model.*.part"))
    files = fetched("org/big", downloads)
    assert hub.transfers() == [0, kept]
    assert sha256_of(files["model.safetensors"]) == sha256_of(big / "model.safetensors")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_transfer_that_is_cut_goes_on_by_itself(hub, big, tmp_path, has_ranges):
    hub.cuts, hub.has_ranges = [300_000, 600_000], has_ranges
    told: list[str] = []
    files = fetched("org/big", tmp_path / "downloads", told)
    starts = hub.transfers()
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[1] > 0
    assert sha256_of(files["model.safetensors"]) == sha256_of(big / "model.safetensors")
    assert transferred(told[-1]) == (BIG_BYTES + 2, BIG_BYTES + 2)
    assert all(done <= total for done, total in map(transferred, told))


def test_a_transfer_that_brings_nothing_is_given_up_in_words_and_what_came_is_kept(hub, big, tmp_path):
    hub.cuts = [600_000, *[0] * 10]
    with pytest.raises(
        Offline, match=r"what has come is kept, and when there is a network, run: lars-agent model pull"
    ):
        fetched("org/big", tmp_path / "downloads")
    hub.cuts.clear()
    fetched("org/big", tmp_path / "downloads")
    assert hub.transfers()[-1] > 0


def test_what_another_revision_left_goes_and_files_that_are_the_same_stay(hub, big, tmp_path):
    downloads = tmp_path / "downloads"
    fetched("org/big", downloads)
    (downloads / ".cache").mkdir()
    (big / "config.json").write_text('{"changed": 1}')
    fetched("org/big", downloads)
    assert hub.transfers() == [0]
    assert sorted(path.name.split(".")[0] for path in downloads.iterdir()) == ["config", "model"]


def test_a_damaged_file_is_removed_and_said(hub, big, tmp_path):
    hub.damaged = {"model.safetensors"}
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors of org/big came damaged"):
        fetched("org/big", tmp_path / "downloads")
    assert not list((tmp_path / "downloads").glob("model.*"))
    hub.damaged = set()
    fetched("org/big", tmp_path / "downloads")


def test_a_hub_that_tells_no_sizes_in_its_list_is_asked_for_each_file(hub, big, tmp_path):
    hub.tells_sizes = False
    told: list[str] = []
    files = fetched("org/big", tmp_path / "downloads", told)
    assert sha256_of(files["model.safetensors"]) == sha256_of(big / "model.safetensors")
    assert transferred(told[-1]) == (BIG_BYTES + 2, BIG_BYTES + 2)


def test_weights_that_are_there_twice_are_fetched_once(hub, tiny, tmp_path):
    hub.extra = {"consolidated.safetensors": 9_000_000, "onnx/config.json": 9_000_000, "pytorch_model.bin": 9_000_000}
    assert hub_module.find(NAME, tmp_path).bytes == sum(path.stat().st_size for path in tiny.iterdir())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "pytorch_model.bin"], "has no weights in model.safetensors"),
        (["model.safetensors"], "has no config.json"),
        (["config.json", "model-Q4.gguf"], "holds GGUF files; download the one that you want"),
    ],
)
def test_a_repository_without_a_model_that_can_be_read_is_refused_before_anything_is_fetched(
    hub, tmp_path, files, message
):
    folder = tmp_path / "there"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    hub.add("org/other", folder)
    with pytest.raises(ModelUnsupported, match=message):
        ModelLibrary(tmp_path / "models").pull("org/other")
    assert [one.path for one in hub.asked if "org/other" in one.path] == ["/api/models/org/other"]


@pytest.mark.parametrize("is_gated", [True, False])
@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_token_is_taken_from_its_usual_places_and_given_to_the_hub_alone(hub, tmp_path, monkeypatch, is_gated, place):
    hub.token, hub.is_gated = "hf_right", is_gated
    words = "gated: its owners ask for consent" if is_gated else "or it is private; check the name"
    with pytest.raises(ModelForbidden if is_gated else ModelNotFound, match=f"{words}.*HF_TOKEN.*hf auth login"):
        fetched(NAME, tmp_path / "downloads")
    if place == "variable":
        monkeypatch.setenv("HF_TOKEN", "hf_right")
    else:
        (tmp_path / "token").write_text("hf_right\n")
    hub.asked.clear()
    fetched(NAME, tmp_path / "downloads")
    told = {one.path.startswith("/storage/"): one.token for one in hub.asked}
    assert told == {False: "Bearer hf_right", True: None}


def test_a_token_that_the_hub_does_not_take_is_said(hub, tmp_path, monkeypatch):
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelForbidden, match=r"does not give org/tiny to this token \(status 401\); make another one"):
        fetched(NAME, tmp_path / "downloads")


@pytest.mark.parametrize(
    ("reference", "message"),
    [("org/none", "the hub has no 'org/none'"), (f"{NAME}@v9", "org/tiny has no revision 'v9'")],
)
def test_what_the_hub_has_not_is_named(hub, tmp_path, reference, message):
    library = ModelLibrary(tmp_path / "models")
    with pytest.raises(ModelNotFound, match=message):
        library.pull(reference)
    assert {name for name in left(library.folder) if not name.endswith(".lock")} == {"downloads"}


def test_a_model_that_the_disk_has_no_room_for_is_refused_before_its_weights_come(hub, tmp_path):
    hub.extra = {"more.json": 2**60}
    with pytest.raises(DiskFull, match=r"takes 1,15\d,.* bytes more in .*where there is room for .*; free some space"):
        ModelLibrary(tmp_path / "models").pull(NAME)
    assert hub.transfers() == []


def test_a_disk_that_fills_gets_the_room_of_the_file_back(hub, big, tmp_path):
    library = ModelLibrary(tmp_path / "models")
    downloads = library.folder / "downloads" / "org--big"
    downloads.mkdir(parents=True)
    part = downloads / f"model.safetensors.{sha256_of(big / 'model.safetensors')}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="free some space"):
        library.pull("org/big")
    assert not part.is_symlink()
    assert library.list() == []


def test_a_folder_that_is_not_ours_is_not_called_offline(tmp_path):
    with pytest.raises(PermissionError), hub_module.asking("org/tiny", tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))


@pytest.mark.parametrize(("done", "total"), [(0, 1), (1_234_567, 269_030_016)])
def test_a_transfer_s_bytes_are_read_from_its_message(done, total):
    assert transferred(transfer_message("fetching org/name at 0123: 4 of 5 files", done, total)) == (done, total)
    assert transferred("checking the weights") is None
