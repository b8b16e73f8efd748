"""Base models over the API: those on the device, fetching another, and choosing one."""

from __future__ import annotations

import sys

import pytest

from lars_agent.models.library import ModelLibrary
from service.serving.model_pull import ModelPull
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.tiny import save_tiny


@pytest.fixture
def tiny(tmp_path):
    """A model on this device that is not installed."""
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def client(settings):
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


def over(client) -> dict:
    wait_until(lambda: client.get("/models").json()["pull"]["is_over"], timeout_s=60)
    return client.get("/models").json()


def test_a_model_is_fetched_by_a_process_of_its_own_and_chosen_for_the_next_start(client, settings, tiny):
    assert client.get("/models").json() == {"models": [], "pull": None}
    assert client.post("/models", json={"reference": str(tiny)}).status_code == 202
    found = over(client)
    (model,) = found["models"]
    assert (model["name"], model["reference"], model["in_use"]) == ("tiny", str(tiny), False)
    assert model["bytes"] == ModelLibrary(settings.models_dir).get("tiny").bytes
    assert (found["pull"]["error"], found["pull"]["is_over"]) == (None, True)
    changed = client.patch("/settings", json={"model.name": "tiny"}).json()["settings"]
    (name,) = [one for one in changed if one["key"] == "model.name"]
    assert (name["value"], name["is_waiting"]) == ("tiny", True)


def test_one_model_is_fetched_at_a_time_and_a_failure_says_why(client, tiny):
    waits = (
        "import time; print('fetching it: 3,000 of 9,000 bytes', flush=True); time.sleep(1); "
        "raise SystemExit('error: no network')"
    )
    client.app.state.daemon.model_pull = ModelPull("", (sys.executable, "-c", waits))
    client.post("/models", json={"reference": str(tiny)})
    wait_until(lambda: client.get("/models").json()["pull"]["message"].startswith("fetching"))
    pull = client.get("/models").json()["pull"]
    assert (pull["done_bytes"], pull["total_bytes"]) == (3000, 9000)
    second = client.post("/models", json={"reference": str(tiny)})
    assert (second.status_code, "is being fetched" in second.json()["error"]["message"]) == (409, True)
    pull = over(client)["pull"]
    assert (pull["error"], pull["total_bytes"]) == ("no network", None)
    assert client.post("/models", json={"reference": str(tiny)}).status_code == 202
    over(client)


@pytest.mark.parametrize("name", ["no such model", "", "/nowhere/at/all"])
def test_what_names_no_model_is_refused_before_anything_is_done(client, name):
    for refused in (
        client.post("/models", json={"reference": name}),
        client.patch("/settings", json={"model.name": name}),
    ):
        assert refused.status_code in ((404,) if name else (404, 422))
        assert refused.json()["error"]["param"] in ("reference", "model.name")
    assert client.get("/models").json()["pull"] is None


def test_what_a_model_needs_is_told_before_it_is_fetched(client, settings, tiny):
    found = client.get("/models/preview", params={"reference": str(tiny)}).json()
    assert (found["name"], found["download_bytes"], found["fits"]) == ("tiny", 0, True)
    assert 0 < found["disk_bytes"] < found["serving_bytes"] < found["training_bytes"]
    assert client.get("/models").json()["models"] == []
    for reference in ("no such model", "/nowhere/at/all"):
        refused = client.get("/models/preview", params={"reference": reference})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "reference")
