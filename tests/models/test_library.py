from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from lars_agent.errors import DiskFull, ModelCorrupt, ModelIncomplete, ModelNotFound, ModelUnsupported
from lars_agent.models import library as library_module
from lars_agent.models import sources
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import open_model
from lars_agent.runtime.model_check import check_model
from tests.models.remains import left
from tests.tiny import save_tiny

WAIT_S = 60


@pytest.fixture
def checked_here(monkeypatch) -> None:
    """Pulled folders are checked in this process, which does not take the seconds of starting one."""
    monkeypatch.setattr(library_module, "check_folder", check_model)


@pytest.mark.usefixtures("checked_here")
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


@pytest.mark.usefixtures("checked_here")
def test_two_references_of_one_name_are_two_models(tmp_path):
    library = ModelLibrary(tmp_path / "models")
    first = library.pull(str(save_tiny(tmp_path / "v1" / "model", seed=1)))
    source = save_tiny(tmp_path / "v2" / "model", seed=2)
    with pytest.raises(ModelNotFound, match="v2/model"):
        library.get(str(source))
    with pytest.raises(ModelNotFound):
        library.use(str(source))
    second = library.pull(str(source))
    assert first.name == "model"
    assert second.name.startswith("model-")
    assert first.sha256 != second.sha256
    assert second.reference == str(source)
    assert library.list() == [first, second]
    for reference, model in ((first.reference, first), (second.reference, second)):
        assert library.pull(reference) == library.get(reference) == library.get(model.name) == model
        assert library.use(reference) == library.current() == model


@pytest.mark.usefixtures("checked_here")
def test_a_model_under_its_other_name_is_found_when_the_first_has_gone(tmp_path):
    library = ModelLibrary(tmp_path / "models")
    first = library.pull(str(save_tiny(tmp_path / "v1" / "model", seed=1)))
    second = library.pull(str(save_tiny(tmp_path / "v2" / "model", seed=2)))
    shutil.rmtree(first.folder)
    assert library.pull(second.reference) == library.get(second.reference) == second
    with pytest.raises(ModelNotFound):
        library.get(first.reference)


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("name", ["current", "downloads"])
def test_a_model_does_not_take_a_name_that_the_library_needs(tmp_path, name):
    library = ModelLibrary(tmp_path / "models")
    model = library.pull(str(save_tiny(tmp_path / name)))
    assert library.use(model.reference) == library.current() == library.get(model.name) == model
    assert library.list() == [model]


@pytest.mark.usefixtures("checked_here")
def test_a_path_written_another_way_is_the_same_reference(tmp_path, monkeypatch):
    library = ModelLibrary(tmp_path / "models")
    model = library.pull(str(save_tiny(tmp_path / "v1" / "tiny")))
    monkeypatch.chdir(tmp_path / "v1" / "tiny")
    assert library.pull(".") == library.pull("../tiny") == library.get(f"{tmp_path}/v2/../v1/tiny/") == model
    record = json.loads((model.folder / "model.json").read_text()) | {"reference": f"{tmp_path}/v1/../v1/tiny"}
    (model.folder / "model.json").write_text(json.dumps(record))
    assert library.pull(str(tmp_path / "v1" / "tiny")).name == "tiny"


@pytest.mark.usefixtures("checked_here")
def test_the_model_in_use_is_known_by_its_name_wherever_the_daemon_runs(tmp_path, monkeypatch):
    library = ModelLibrary(tmp_path / "models")
    first = library.use(library.pull(str(save_tiny(tmp_path / "v1" / "model", seed=1))).name)
    second = library.pull(str(save_tiny(tmp_path / "v2" / "model", seed=2)))
    monkeypatch.chdir(tmp_path / "v2")
    assert library.get("model") == second
    assert library.current() == first


@pytest.mark.usefixtures("checked_here")
def test_a_record_that_cannot_be_read_says_what_to_do(tmp_path):
    library = ModelLibrary(tmp_path / "models")
    model = library.pull(str(save_tiny(tmp_path / "tiny")))
    (model.folder / "model.json").write_text("{")
    for reference in ("tiny", model.reference):
        with pytest.raises(ModelCorrupt, match="remove its folder"):
            library.get(reference)


@pytest.mark.usefixtures("checked_here")
def test_the_second_of_two_pulls_waits_and_finds_the_model_installed(tmp_path, monkeypatch):
    library, copy = ModelLibrary(tmp_path / "models"), sources.from_folder
    source = save_tiny(tmp_path / "tiny")
    begun, waiting, copied = threading.Event(), threading.Event(), []

    def slow(*arguments):
        begun.set()
        assert waiting.wait(WAIT_S)
        copied.append(copy(*arguments))

    def hear(words):
        told.append(words)
        waiting.set()

    monkeypatch.setattr(sources, "from_folder", slow)
    told, pulled = [], []
    first = threading.Thread(target=lambda: pulled.append(library.pull(str(source))))
    second = threading.Thread(target=lambda: pulled.append(library.pull(str(source), hear)))
    first.start()
    assert begun.wait(WAIT_S)
    second.start()
    for thread in (first, second):
        thread.join(WAIT_S)
    assert told == ["waiting for another pull of tiny to end"]
    assert len(copied) == 1
    assert pulled == [library.get("tiny")] * 2


@pytest.mark.usefixtures("checked_here")
def test_a_pull_waits_for_one_in_another_process(tmp_path):
    source = save_tiny(tmp_path / "tiny")
    script = (
        "import sys; from lars_agent.models import sources; from lars_agent.models.library import ModelLibrary\n"
        "copy = sources.from_folder\n"
        "sources.from_folder = lambda *all: (print('begun', flush=True), sys.stdin.readline(), copy(*all))[0]\n"
        "ModelLibrary(sys.argv[1]).pull(sys.argv[2])\n"
    )
    models, told = tmp_path / "models", []
    command = [sys.executable, "-c", script, str(models), str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "begun\n"

        def go_on(words):
            told.append(words)
            other.stdin.write("\n")
            other.stdin.flush()

        model = ModelLibrary(models).pull(str(source), go_on)
    assert other.returncode == 0
    assert told == ["waiting for another pull of tiny to end"]
    assert ModelLibrary(models).list() == [model]


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), ModelIncomplete),
        (lambda folder: (folder / "config.json").unlink(), ModelNotFound),
        (lambda folder: (folder / "chat_template.jinja").unlink(), ModelUnsupported),
        (lambda folder: (folder / "generation_config.json").write_text("{"), ModelCorrupt),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_and_nothing_is_left(tmp_path, damage, error):
    library = ModelLibrary(tmp_path / "models")
    source = save_tiny(tmp_path / "tiny")
    damage(source)
    with pytest.raises(error):
        library.pull(str(source))
    assert left(library.folder) == {".tiny.lock", "downloads"}


@pytest.mark.usefixtures("checked_here")
def test_changed_weights_are_found_by_verify(tmp_path):
    library = ModelLibrary(tmp_path / "models")
    model = library.pull(str(save_tiny(tmp_path / "tiny")))
    weights = model.folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelCorrupt, match="have changed"):
        library.verify("tiny")


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
        assert left(small / "models") == {".tiny.lock", "downloads"}
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
    assert left(models) == {".tiny.lock", "downloads", "tiny"}


@pytest.mark.parametrize(
    "reference", ["a" * 300, "o/" + "a" * 300, "o/n@" + "b" * 300, "a" * 300 + ".gguf", "." * 300, "é" * 200]
)
def test_a_name_longer_than_a_file_s_is_no_model_s(tmp_path, reference):
    library = ModelLibrary(tmp_path)
    for asked in (library.get, library.use, library.remove, library.verify):
        with pytest.raises(ModelNotFound):
            asked(reference)
    assert list(tmp_path.iterdir()) == []
