from __future__ import annotations

import pytest

from lars_agent.errors import AdapterIncompatible
from lars_agent.store.adapters import AdapterStore
from service.settings.load import Settings
from tests.service.api.conftest import FakeModel, client_of, fake_app, opener, wait_until
from tests.store.make import make_candidate, make_draft


@pytest.fixture
def versions(daemon, tmp_path):
    """v1, and v2 that came from it; v2 is in use."""
    publish(daemon.store, tmp_path)
    daemon.switch.activate("default", 2)


def publish(store: AdapterStore, tmp_path) -> None:
    for parent in (None, 1):
        store.publish("default", make_candidate(tmp_path / "candidate", f"weights {parent}"), make_draft(parent))


def damage(store: AdapterStore, version: int) -> None:
    (store.folder("default", version) / "adapter_model.safetensors").write_bytes(b"x")


def test_versions_are_listed_with_the_one_in_use(client, versions):
    listed = client.get("/adapters").json()
    assert (listed["profile"], listed["active"], listed["problems"]) == ("default", "v2", {})
    assert [(a["version"], a["parent"], a["active"]) for a in listed["adapters"]] == [
        ("v1", "base", False),
        ("v2", "v1", True),
    ]
    assert client.get("/adapters/v2").json() == listed["adapters"][1]
    assert client.get("/adapters?profile=alice").json()["adapters"] == []


def test_activated_version_replies(client, versions, engine):
    response = client.post("/adapters/v1/activate")
    assert (response.status_code, response.json()) == (200, {"profile": "default", "active": "v1"})
    reply = client.post("/generate", json={"inputs": "Hi"}).json()
    assert reply["details"]["adapter_version"] == "v1"
    assert client.get("/info").json()["serving"] == {"default": "v1"}


def test_base_can_be_activated(client, versions):
    assert client.post("/adapters/base/activate").json()["active"] == "base"
    assert client.get("/adapters").json()["active"] == "base"


def test_rollback_goes_to_the_parent_and_then_to_the_base(client, versions):
    assert [client.post("/adapters/rollback").json()["active"] for _ in range(2)] == ["v1", "base"]
    response = client.post("/adapters/rollback")
    assert response.status_code == 404
    assert "nothing to roll back" in response.json()["error"]["message"]


def test_a_version_is_asked_general_questions_beside_the_base_model_and_nothing_is_kept(client, versions, engine):
    found = client.get("/adapters/v1/probes").json()
    assert (found["version"], found["same"], len(found["probes"])) == ("v1", 8, 8)  # the stand-in engine echoes
    assert all(one["prompt"] in one["reply"] for one in found["probes"])
    assert {ticket.request.version for ticket in engine.tickets[-16:]} == {1, None}
    assert not any(ticket.request.recalled for ticket in engine.tickets)
    assert client.get("/interactions").json()["interactions"] == []
    assert client.get("/adapters/base/probes").json()["same"] == 8
    assert client.get("/adapters/v9/probes").status_code == 404


def test_damaged_version_is_refused_and_the_incumbent_stays(client, versions, daemon, engine):
    damage(daemon.store, 1)
    assert list(client.get("/adapters?verify=true").json()["problems"]) == ["v1"]
    for call in ("/adapters/v1/activate", "/adapters/rollback"):
        response = client.post(call)
        assert response.status_code == 409
        assert "is damaged" in response.json()["error"]["message"]
        assert (daemon.store.active("default"), engine.serving("default")) == (2, 2)


@pytest.mark.parametrize("call", ["/adapters/v1/activate", "/adapters/rollback", "/adapters/base/activate"])
def test_failed_swap_puts_the_pointer_back(client, versions, daemon, engine, call):
    engine.refuse_swap = AdapterIncompatible("the tensors have another shape")
    assert client.post(call).status_code == 409
    assert (daemon.store.active("default"), engine.serving("default")) == (2, 2)


def test_failed_swap_over_a_damaged_incumbent_goes_back_to_its_parent_and_says_so(client, versions, daemon, engine):
    daemon.store.publish("default", daemon.store.folder("default", 1), make_draft(2))
    damage(daemon.store, 3)
    damage(daemon.store, 2)
    response = client.post("/adapters/v3/activate")
    assert response.status_code == 409
    assert "v1 is in use because v2 is damaged" in response.json()["error"]["message"]
    assert (daemon.store.active("default"), engine.serving("default")) == (1, 1)
    assert client.get("/health").json()["alarms"] == ["adapter_fallback"]


def test_unknown_version_is_not_found(client, versions, daemon):
    assert client.post("/adapters/v9/activate").status_code == 404
    assert client.post("/adapters/v1/activate?profile=alice").status_code == 404
    assert daemon.store.active("default") == 2


def test_version_damaged_while_the_daemon_was_off_is_stepped_back_from(start, settings: Settings, tmp_path):
    store = AdapterStore(settings.adapters_dir)
    publish(store, tmp_path)
    store.activate("default", 2)
    damage(store, 2)
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    info = client.get("/info").json()
    assert info["serving"] == {"default": "v1"}
    assert "is damaged" in info["problems"][0]
    assert "default now uses v1" in info["problems"][0]
    assert client.get("/health").json() == {"status": "degraded", "alarms": ["adapter_fallback"]}


def test_when_no_version_is_sound_the_base_model_replies(start, settings: Settings, tmp_path):
    store = AdapterStore(settings.adapters_dir)
    publish(store, tmp_path)
    store.activate("default", 2)
    for version in (1, 2):
        damage(store, version)
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    assert client.get("/info").json()["serving"] == {"default": "base"}
    assert client.post("/generate", json={"inputs": "Hi"}).status_code == 200


def test_a_version_for_another_base_model_is_set_aside_and_serves_again_when_its_model_is_back(
    start, settings: Settings, tmp_path
):
    store = AdapterStore(settings.adapters_dir)
    publish(store, tmp_path)
    store.activate("default", 2)
    other = FakeModel(sha256="c" * 64)
    with client_of(fake_app(settings, find_model=lambda: other, open_engine=opener(settings, other.sha256))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        info = client.get("/info").json()
        assert info["serving"] == {"default": "base"}
        assert "not for the base model in use" in info["problems"][0]
        assert client.get("/health").json() == {"status": "degraded", "alarms": ["adapter_set_aside"]}
        assert client.post("/generate", json={"inputs": "Hi"}).json()["details"]["adapter_version"] == "base"
        assert client.post("/adapters/v1/activate").status_code == 409
        assert client.get("/info").json()["serving"] == {"default": "base"}
    assert store.active("default") == 2
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    assert client.get("/info").json()["serving"] == {"default": "v2"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"profile":' * 500 + "1" + "}" * 500, "", "\0", "7"])
def test_one_broken_manifest_is_told_and_the_other_versions_are_served(client, versions, daemon, text):
    feedback_id = client.post("/feedback", json={"prompt": "A", "response": "B", "rating": 1}).json()["id"]
    (daemon.store.folder("default", 1) / "manifest.json").write_text(text)
    listed = client.get("/adapters").json()
    assert (listed["active"], [one["version"] for one in listed["adapters"]]) == ("v2", ["v2"])
    assert listed["problems"].keys() == {"v1"} == client.get("/adapters?verify=true").json()["problems"].keys()
    assert client.get("/adapters/v1").status_code == client.post("/adapters/v1/activate").status_code == 409
    assert client.post("/adapters/rollback").status_code == 409
    assert client.get(f"/feedback/{feedback_id}/versions").json()["versions"] == []
    assert client.post("/adapters/base/activate").json()["active"] == "base"
    assert client.post("/adapters/v2/activate").json()["active"] == "v2"
    assert client.get("/info").json()["serving"] == {"default": "v2"}
    assert client.delete(f"/feedback/{feedback_id}").status_code == 200


def test_a_broken_manifest_of_the_version_in_use_is_told_and_another_can_be_used(client, versions, daemon):
    (daemon.store.folder("default", 2) / "manifest.json").write_text("[" * 100_000)
    listed = client.get("/adapters").json()
    assert (listed["active"], listed["problems"].keys()) == ("v2", {"v2"})
    assert client.post("/adapters/v1/activate").json()["active"] == "v1"
