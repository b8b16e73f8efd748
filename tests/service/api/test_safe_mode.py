"""After three failed starts: the base model replies, the dashboard shows it, nothing is trained."""

from __future__ import annotations

import json

import pytest

from lars_agent.store.adapters import AdapterStore
from service import daemon as daemon_module
from service.db import Database
from service.process.crash_loop import STARTS_NAME
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.store.make import make_candidate, make_draft

WORDS = (
    "the last 3 starts failed; only the base model is served and nothing is learned; "
    "read the log, fix the cause and restart"
)


@pytest.fixture
def job(settings, tmp_path) -> str:
    """Three starts have failed, over a version in use and a job that has not ended; the job's id."""
    store = AdapterStore(settings.adapters_dir)
    for profile in ("default", "alice"):
        store.publish(profile, make_candidate(tmp_path / "candidate"), make_draft())
        store.activate(profile, 1)
    db = Database(settings.database_path)
    job = db.jobs.add("default", "manual")
    db.close()
    (settings.data_dir / STARTS_NAME).write_text(json.dumps({"failed": 3}))
    return job.id


def failed(settings) -> int:
    return json.loads((settings.data_dir / STARTS_NAME).read_text())["failed"]


@pytest.fixture
def client(job, start, settings):
    client = start(settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"enabled": True})}))
    wait_until(lambda: client.get("/health").status_code == 200)
    return client


def test_the_base_model_serves_every_profile_and_the_pointers_stay(client, engine):
    assert client.get("/info").json()["serving"] == {"default": "base", "alice": "base"}
    for profile in ("default", "alice"):
        body = {"inputs": "Hi", "parameters": {"adapter_id": profile}}
        assert client.post("/generate", json=body).json()["details"]["adapter_version"] == "base"
    assert {ticket.request.version for ticket in engine.tickets} == {None}
    assert client.get("/adapters").json()["active"] == "v1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/adapters/v1/activate", None),
        ("/adapters/base/activate", None),
        ("/adapters/rollback", None),
        ("/jobs", {}),
        ("/generate", {"inputs": "Hi", "parameters": {"adapter_id": "default@v1"}}),
    ],
)
def test_what_would_load_or_make_an_adapter_is_refused(client, engine, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 409
    assert "only the base model is served" in answer.json()["error"]["message"]
    assert engine.tickets == []
    assert client.app.state.daemon.store.active("default") == 1


def test_safe_mode_continues_no_job_and_schedules_nothing(client, job):
    daemon = client.app.state.daemon
    assert daemon.supervisor.current is None
    assert not daemon.periodic.running
    assert client.get(f"/jobs/{job}").json()["status"] == "queued"
    assert client.get("/info").json()["schedule"]["next_run"] is None
    assert client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"


def test_safe_mode_is_reported_by_info_health_and_status(client):
    assert client.get("/health").json() == {"status": "degraded", "alarms": ["safe_mode"]}
    assert client.get("/ready").json() == {"status": "ok"}
    assert client.get("/info").json()["problems"] == [WORDS]
    assert client.app.state.daemon.status().startswith("safe mode")
    assert client.get("/").status_code == 200


def test_the_start_after_a_healthy_safe_one_is_normal(job, settings, monkeypatch):
    monkeypatch.setattr(daemon_module, "HEALTHY_S", 0.05)
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: failed(settings) == 0)
        assert client.get("/health").json()["status"] == "degraded"
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/info").json()["serving"] == {"default": "v1", "alice": "v1"}


def test_a_start_has_failed_until_it_is_healthy_or_closed(settings):
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert failed(settings) == 1
    assert failed(settings) == 0


def test_start_that_ends_with_an_error_message_does_not_count(settings):
    settings.data_dir.mkdir()
    settings.database_path.write_text("no database at all, and that is a pity")
    for _ in range(4):
        with pytest.raises(Exception, match="no SQLite database"):
            fake_app(settings)
    assert failed(settings) == 0
