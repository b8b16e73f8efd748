"""The benchmarks are a tool of the checkout: their command line starts there, and no wheel holds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench import __main__ as bench_cli
from bench import options
from bench.faults.parts import PARTS as FAULT_PARTS
from bench.ops.parts import PARTS as OPS_PARTS
from bench.serve.parts import BUILDERS, serve_parts

CHECKOUT = Path(__file__).parents[2]
BUILD = "import setuptools.build_meta as backend, sys; print(backend.build_wheel(sys.argv[1]))"


def without(name: str):
    return lambda package: None if package == name else object()


@pytest.mark.parametrize(("package", "words"), [("peft", "PEFT"), ("matplotlib", "matplotlib")])
def test_a_missing_extra_is_named_with_what_to_run(monkeypatch, capsys, package, words):
    monkeypatch.setattr(options, "find_spec", without(package))
    with pytest.raises(SystemExit) as ended:
        bench_cli.main(["memory", "--methods", "lora"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert words in said
    assert "pip install 'lars-agent[bench]'" in said


@pytest.mark.parametrize("command", ["memory", "planner", "serve", "faults", "ops", "quality", "sweep", "report"])
def test_every_command_starts_from_the_checkout(bench, command):
    done = bench(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


def test_the_command_line_knows_every_part():
    assert tuple(FAULT_PARTS) == bench_cli.FAULT_PARTS
    assert tuple(OPS_PARTS) == bench_cli.OPS_PARTS
    assert tuple(BUILDERS) == tuple(serve_parts(Path(), Path(), 1)) == bench_cli.SERVE_PARTS


def test_the_daemons_command_line_points_to_the_checkout():
    command = [sys.executable, "-m", "service", "bench", "memory", "--goals"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "python -m bench" in done.stderr
    shown = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "bench" not in shown


def test_the_wheel_holds_the_library_and_the_service_alone(tmp_path):
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("lars_agent", "service", "deploy", "systemd", "bench", "examples", "tests"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in folders if not name.endswith((".dist-info", ".data"))} == {"lars_agent", "service"}
