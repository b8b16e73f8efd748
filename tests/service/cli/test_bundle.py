"""The bundle's own wheel; the whole of it is made and installed by tests/deploy/rehearse.sh."""

from __future__ import annotations

import base64
import hashlib
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from lars_agent.errors import LarsError
from service.cli.bundle import PACKAGES, bundle, write_wheel

REPOSITORY = Path(__file__).parents[3]
TEMPLATES = ("*.mako", "*.md")  # for those who develop it


def own_files() -> set[str]:
    files = (path for name in PACKAGES for path in (REPOSITORY / name).rglob("*") if path.is_file())
    return {str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_all_files_with_their_sums_and_the_scripts(tmp_path):
    path = write_wheel(tmp_path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    assert own_files() <= set(contents)
    info = next(name for name in contents if name.endswith("/RECORD"))
    for line in contents[info].decode().splitlines():
        name, digest, _ = line.rsplit(",", 2)
        expected = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).decode().rstrip("=")
        assert digest == ("" if name == info else f"sha256={expected}")
    assert len(contents) == len(contents[info].decode().splitlines())
    assert b"lars-agent = service.cli.main:main" in contents[info.replace("RECORD", "entry_points.txt")]
    script = next(name for name in contents if name.endswith("share/lars-agent/deploy/install.sh"))
    assert modes[script] & 0o111
    assert contents[script] == (REPOSITORY / "deploy" / "install.sh").read_bytes()


def test_every_file_that_is_no_code_is_in_the_package_that_pip_makes():
    """Templates, static files, lists of words: `pipx install` knows nothing of the checkout."""
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    left_out = []
    for name in own_files():
        package, _, inside = name.partition("/")
        fits = any(fnmatch(inside, pattern.replace("**/", "*")) for pattern in patterns[package])
        if not name.endswith(".py") and not fits and not any(fnmatch(name, pattern) for pattern in TEMPLATES):
            left_out.append(name)
    assert left_out == []


def test_the_scripts_that_a_bundle_carries_are_in_the_package_that_pip_makes():
    shared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    found = {path for files in shared.values() for pattern in files for path in REPOSITORY.glob(pattern)}
    assert {
        REPOSITORY / "README.md",
        *(REPOSITORY / "deploy").glob("*.sh"),
        *(REPOSITORY / "systemd").iterdir(),
    } <= found


def test_nothing_that_exists_is_overwritten(tmp_path):
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(LarsError, match="exists already"):
        bundle(tmp_path / "b.tar")
    with pytest.raises(LarsError, match="there is no folder"):
        bundle(tmp_path / "no" / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "precious"
