"""The choice of PyTorch's build, with tiny wheels on an index on loopback."""

from __future__ import annotations

import platform
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import torch_wheels

MACHINE = "x86_64"
PINS = "torch==9.1.0; platform_machine != 'aarch64'\ntorch==8.0.0; platform_machine == 'aarch64'\n"
CUDA_BYTES = 5 * 2**20


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def wheel(folder: Path, name: str, version: str, requires: str = "", payload: int = 0) -> None:
    info = f"{name}-{version}.dist-info"
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    (folder / name).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.bin", bytes(payload))
        archive.writestr(f"{info}/METADATA", told)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Iterator[str]:
    """PyPI: torch that needs CUDA; and beside it, at /cpu, PyTorch's index."""
    wheel(tmp_path / "served" / "pypi", "torch", "9.1.0", requires="cuda")
    wheel(tmp_path / "served" / "pypi", "cuda", "1.0", payload=CUDA_BYTES)
    wheel(tmp_path / "served" / "cpu", "torch", "9.1.0+cpu", payload=2**20)
    (tmp_path / "pins.txt").write_text(PINS)
    (tmp_path / "here").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "TORCH_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/pypi")
        monkeypatch.setenv("UV_OFFLINE", "1")
        monkeypatch.setattr(platform, "machine", lambda: MACHINE)
        monkeypatch.setattr(torch_wheels, "NVIDIA", ())
        yield address
        server.shutdown()
        thread.join()


def fetched(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "here").iterdir())


def test_torch_index_has_the_build_for_the_cpu_and_its_size_is_said_before(index, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TORCH_INDEX", f"{index}/cpu")
    torch_wheels.main(tmp_path / "pins.txt", str(tmp_path / "here"))
    assert fetched(tmp_path) == ["torch-9.1.0+cpu-py3-none-any.whl"]
    assert f"takes 9.1.0+cpu, 1 MiB, from {index}/cpu/torch" in capfd.readouterr().err


def test_without_any_the_size_of_pypis_with_all_it_needs_is_said_and_nothing_fetched(index, tmp_path, capfd):
    torch_wheels.main(tmp_path / "pins.txt", str(tmp_path / "here"))
    assert fetched(tmp_path) == []
    told = capfd.readouterr().err
    assert "no build for the CPU is within reach; PyPI's 9.1.0, with CUDA's libraries, is 5 MiB" in told
    assert "set TORCH_INDEX" in told


def test_an_index_without_it_is_an_error_that_names_the_variable(index, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX", f"{index}/pypi")
    with pytest.raises(SystemExit, match=rf"no torch==9\.1\.0\+cpu for this Python at TORCH_INDEX={index}/pypi"):
        torch_wheels.main(tmp_path / "pins.txt", str(tmp_path / "here"))


@pytest.mark.parametrize("reason", ["nvidia", "arm", "none", "installed"])
def test_nothing_is_asked_for_where_the_build_for_the_cpu_is_not_wanted(index, tmp_path, monkeypatch, reason):
    monkeypatch.setenv("TORCH_INDEX", "none" if reason == "none" else f"{index}/nowhere")
    if reason == "nvidia":
        monkeypatch.setattr(torch_wheels, "NVIDIA", (tmp_path,))
    if reason == "arm":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    if reason == "installed":
        monkeypatch.setattr(torch_wheels, "installed", lambda: "9.1.0+cu130")
    torch_wheels.main(tmp_path / "pins.txt")


def test_the_pin_is_that_of_the_machine():
    pins = Path(__file__).parents[2] / "constraints.txt"
    found = [torch_wheels.pinned(pins, machine) for machine in ("x86_64", "aarch64")]
    assert found == [line.partition(";")[0][7:] for line in pins.read_text().splitlines() if line.startswith("torch==")]
