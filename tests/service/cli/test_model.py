"""`lars-agent model`: the one in use is marked and stays; another one is removed, by the daemon where one runs."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from lars_agent.models.library import ModelLibrary
from service.db import Database
from service.process.data_lock import DataLock
from tests.service.api.conftest import SHA256

WEIGHTS = 1234


def install(data: Path, name: str, sha256: str = SHA256, reference: str = "") -> Path:
    """Put a model into the library as a pull does, with weights that nobody opens."""
    folder = data / "models" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * WEIGHTS)
    record = {"name": name, "reference": reference or f"org/{name}", "revision": None, "sha256": sha256}
    record |= {"bytes": WEIGHTS, "installed": "2026-11-25T12:00:00+00:00"}
    (folder / "model.json").write_text(json.dumps(record))
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder without a daemon, where `used` is the model in use."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LARS_AGENT_URL", "http://127.0.0.1:9")
    install(tmp_path / "data", "used", sha256="used" * 16)
    install(tmp_path / "data", "other", sha256="other" * 16, reference=str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    ModelLibrary(tmp_path / "data" / "models").use("used")
    return tmp_path / "data"


@pytest.mark.parametrize("used", ["used", "other"])
def test_the_model_that_the_settings_name_is_marked(data, run, monkeypatch, used):
    monkeypatch.setenv("LARS_AGENT_MODEL__NAME", "default" if used == "used" else str(data.parent / "other"))
    listed = run("model").out
    (marked,) = [line.split() for line in listed.splitlines() if "*" in line]
    assert {"used", "other"} & {*marked} == {used}
    assert {row["name"]: row["in_use"] for row in run("model", "list", "--json").json}[used]
    assert sum(row["in_use"] for row in run("model", "--json").json) == 1


def test_a_model_is_removed_with_its_downloads_and_the_bytes_are_told(data, run):
    downloads = data / "models" / "downloads" / "other"
    downloads.mkdir(parents=True)
    (downloads / "part").write_bytes(b"y" * 66)
    freed = size(data / "models" / "other") + 66
    done = run("model", "rm", str(data.parent / "other"))
    assert (done.code, done.out) == (0, f"removed other; {freed:,} bytes are free again\n")
    assert sorted(path.name for path in (data / "models").iterdir()) == ["current", "downloads", "used"]
    again = run("model", "rm", "other")
    assert (again.code, "no model 'other'" in again.err) == (1, True)
    DataLock(data).release()  # nobody holds it


def test_the_model_in_use_is_not_removed_and_the_one_chosen_before_leaves_no_trace(data, run, monkeypatch):
    refused = run("model", "rm", "used")
    assert (refused.code, "lars-agent model use" in refused.err) == (1, True)
    monkeypatch.setenv("LARS_AGENT_MODEL__NAME", str(data.parent / "other"))
    assert run("model", "rm", "other").code == 1
    assert run("model", "rm", "used", "--json").json["name"] == "used"
    monkeypatch.delenv("LARS_AGENT_MODEL__NAME")
    assert run("model", "list", "--json").code == 0
    assert not (data / "models" / "current").exists()


def test_a_model_that_an_unfinished_job_needs_is_not_removed(data, run):
    db = Database(data / "lars-agent.db")
    job = db.jobs.add("default", "manual")
    db.jobs.update(job.id, status="running", spec={"model_sha256": "other" * 16})
    refused = run("model", "rm", "other")
    assert (refused.code, f"job {job.id} needs other" in refused.err) == (1, True)
    db.jobs.update(job.id, status="cancelled")
    db.close()
    assert run("model", "rm", "other").code == 0


def test_a_removal_that_was_killed_is_finished_by_the_next(data, run):
    (data / "models" / "other").rename(data / "models" / ".other.removed")
    assert [row["name"] for row in run("model", "--json").json] == ["used"]
    assert run("model", "rm", "other").code == 1
    assert not (data / "models" / ".other.removed").exists()


@pytest.mark.parametrize("name", ["..", "../data", ".hidden", "", "a/b"])
def test_nothing_but_a_model_is_removed(data, run, name):
    before = sorted(path for path in data.rglob("*"))
    assert run("model", "rm", name).code in (1, 2)
    assert sorted(path for path in data.rglob("*")) == before


def test_where_a_daemon_runs_it_removes_the_model_unless_it_replies(device, run):
    install(device.data, "fake", reference="org/fake")  # the name of the model that replies
    folder = install(device.data, "other")
    freed = size(folder)
    refused = run("model", "rm", "fake")
    assert (refused.code, "it replies until" in refused.err) == (1, True)
    assert run("model", "rm", "other", "--json").json == {"name": "other", "freed_bytes": freed}
    assert not folder.exists()
    unknown = httpx.delete(f"{device.url}models/other")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "name")


def test_another_daemon_than_the_one_of_this_folder_removes_nothing(device, data, run, monkeypatch):
    lock = DataLock(data)  # of a daemon that listens elsewhere
    install(device.data, "used")
    monkeypatch.setenv("LARS_AGENT_URL", device.url)
    try:
        done = run("model", "rm", "other")
    finally:
        lock.release()
    assert (done.code, "give the right --url" in done.err) == (1, True)
    assert (data / "models" / "other").is_dir()
