"""Ollama's pull, copy and delete, on the engine's stand-in."""

from __future__ import annotations

import json
import sys

import pytest

from service.serving.model_pull import ModelPull
from service.settings.load import Settings
from tests.service.api.conftest import wait_until
from tests.service.api.test_adapters import publish

FETCH = (
    "import sys; print('fetching org/tiny at 0123: 3 of 9 bytes', flush=True); sys.stdin.read(); import time; "
    "time.sleep(0.7); print('tiny in here')"
)


def lines(answer) -> list[dict]:
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def allowing(tmp_path, start):
    """A client of a daemon whose owner lets clients fetch models; nothing is fetched in truth."""
    settings = Settings(data_dir=tmp_path / "data", schedule={"enabled": False}, server={"client_pulls": True})
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    return client


def fetch_by(client, program: str) -> None:
    client.app.state.daemon.model_pull = ModelPull("", (sys.executable, "-c", program))


@pytest.mark.parametrize("body", [{"model": "default:latest"}, {"name": "base"}, {"model": "fake", "insecure": True}])
def test_a_name_that_is_here_has_been_pulled(resident, body):
    assert lines(resident.post("/api/pull", json=body)) == [{"status": "success"}]
    assert resident.post("/api/pull", json=body | {"stream": False}).json() == {"status": "success"}


@pytest.mark.parametrize("name", ["hf.co/org/tiny", "org/tiny", "huggingface.co/org/tiny:latest"])
def test_no_client_fetches_a_model_unless_the_owner_allows_it(resident, name):
    refused = resident.post("/api/pull", json={"model": name})
    assert refused.status_code == 403
    assert "lars-agent model pull org/tiny" in refused.json()["error"]
    assert "server.client_pulls = true" in refused.json()["error"]
    assert resident.app.state.daemon.model_pull.last is None
    changed = resident.patch("/settings", json={"server.client_pulls": True})
    assert (changed.status_code, "cannot be changed here" in changed.text) == (422, True)


@pytest.mark.parametrize("name", ["llama3.2", "hf.co/org/tiny:Q4_K_M", "/etc", "tiny.gguf", "../up"])
def test_what_is_neither_here_nor_on_the_hub_is_not_found(allowing, name):
    refused = allowing.post("/api/pull", json={"model": name})
    assert (refused.status_code, "hf.co/org/name" in refused.json()["error"]) == (404, True)
    assert allowing.app.state.daemon.model_pull.last is None


def test_an_allowed_pull_tells_its_bytes_as_ollama_does(allowing):
    fetch_by(allowing, FETCH)
    *steps, told, last = lines(allowing.post("/api/pull", json={"model": "hf.co/org/tiny"}))
    assert {"status": "pulling org/tiny", "digest": "org/tiny", "total": 9, "completed": 3} in steps
    assert "model.name" in told["status"]
    assert last == {"status": "success"}


def test_a_pull_that_fails_says_why_streamed_and_whole(allowing):
    fetch_by(allowing, "raise SystemExit('error: no network')")
    assert lines(allowing.post("/api/pull", json={"model": "org/tiny"}))[-1] == {"error": "no network"}
    whole = allowing.post("/api/pull", json={"model": "org/tiny", "stream": False})
    assert (whole.status_code, whole.json()["error"]) == (409, "model: no network")


def test_a_version_that_is_not_in_use_is_deleted_and_others_are_not(client, daemon, engine, tmp_path):
    publish(daemon.store, tmp_path)
    daemon.switch.activate("default", 1)
    newest = daemon.store.versions("default")[-1].version
    assert newest > 1
    used = client.request("DELETE", "/api/delete", json={"model": "v1"})
    assert (used.status_code, "is in use" in used.json()["error"]) == (409, True)
    assert client.request("DELETE", "/api/delete", json={"name": f"default@v{newest}"}).status_code == 200
    assert newest not in [one.version for one in daemon.store.versions("default")]
    gone = client.request("DELETE", "/api/delete", json={"model": f"v{newest}"})
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("default", 409, "is a profile"),
        ("base", 409, "is the base model, which is in use"),
        ("llama3.2", 404, "there is no model"),
        (None, 422, "is missing"),
    ],
)
def test_what_cannot_be_undone_is_not_deleted_by_a_button(resident, name, status, words):
    refused = resident.request("DELETE", "/api/delete", json={"model": name})
    assert (refused.status_code, words in refused.json()["error"]) == (status, True)


def test_a_version_that_a_job_may_need_stays(client, daemon, tmp_path):
    publish(daemon.store, tmp_path)
    daemon.db.jobs.add("default", "manual")
    newest = daemon.store.versions("default")[-1].version
    refused = client.request("DELETE", "/api/delete", json={"model": f"v{newest}"})
    assert (refused.status_code, "wait for the job" in refused.json()["error"]) == (409, True)


def test_a_copy_is_an_alias_which_the_owner_writes(resident):
    refused = resident.post("/api/copy", json={"source": "default", "destination": "mine"})
    assert refused.status_code == 409
    assert 'server.model_aliases = {"mine" = "default"}' in refused.json()["error"]
    same = resident.post("/api/copy", json={"source": "default", "destination": "default:latest"})
    assert same.status_code == 200
    other = resident.post("/api/copy", json={"source": "default", "destination": "base"})
    assert (other.status_code, "of another model" in other.json()["error"]) == (409, True)
    assert resident.post("/api/copy", json={"source": "none", "destination": "b"}).status_code == 404
