from __future__ import annotations

import threading

import pytest

from lars_agent.errors import Offline
from service.app import create_app
from service.db.errors import DatabaseBusy
from service.process.data_lock import DataInUse
from service.settings.load import Settings
from service.worker.memory_limit import MemoryLimit
from tests.service.api.conftest import FakeModel, client_of, fake_app, wait_until

LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503, "param": None}}


@pytest.fixture
def loading(start, settings):
    """A client of a daemon whose model loads until the event is set."""
    event = threading.Event()
    yield start(settings, find_model=lambda: event.wait(20) and FakeModel()), event
    event.set()


def test_requests_that_need_the_model_are_503_while_it_loads(loading):
    client, event = loading
    for method, path in [("GET", "/health"), ("GET", "/ready"), ("POST", "/jobs"), ("POST", "/adapters/rollback")]:
        response = client.request(method, path)
        assert (response.status_code, response.json()) == (503, LOADING), path
        assert response.headers["retry-after"] == "5"
    assert client.post("/generate", json={"inputs": "Hi"}).json() == LOADING
    assert client.post("/feedback", json={"prompt": "Hi", "response": "Yo", "rating": 1}).status_code == 201
    assert client.get("/info").json()["model"] is None
    event.set()
    wait_until(lambda: client.get("/health").json() == {"status": "ok"})
    assert client.get("/ready").status_code == 200


def test_model_that_cannot_be_loaded_is_tried_again(settings):
    tries = []

    def find() -> FakeModel:
        tries.append(1)
        if len(tries) < 3:
            raise Offline("the network does not answer")
        return FakeModel()

    client = client_of(fake_app(settings, find_model=find))
    client.app.state.daemon.model_host._retry_s = 0.05
    with client:
        wait_until(lambda: client.get("/health").status_code == 200)
    assert len(tries) == 3


def test_loading_error_is_shown_in_info(start, settings):
    def find() -> FakeModel:
        raise Offline("/home/alice/model: the network does not answer")

    client = start(settings, find_model=find)
    wait_until(lambda: client.get("/info").json()["loading_error"] is not None)
    told = client.get("/health").json()["error"]["message"]
    assert told == "Loading model: it could not be loaded yet; GET /info says why"


def test_info_shows_the_state(client):
    client.post("/feedback", json={"prompt": "Hi", "response": "Yo", "correction": "Hello"})
    info = client.get("/info").json()
    assert info["model"]["reference"] == "fake"
    assert info["serving"] == {"default": "base"}
    assert info["feedback"] == {"total": 1, "corrections": 1, "liked": 0, "disliked": 0, "stated": 0}
    assert info["lessons"] == {"default": 1}
    assert info["memory"]["budget_bytes"] == 2 * 1024**3
    assert info["memory"]["peak_bytes"] >= info["memory"]["rss_bytes"] > 0
    assert (info["memory"]["limit"], info["memory"]["limit_reason"]) == ("guard", None)
    assert info["schedule"] == {"enabled": False, "cron": "0 3 * * *", "next_run": None}
    assert (info["job"], info["problems"], info["notices"], info["loading_error"]) == (None, [], [], None)


def test_info_says_why_the_kernel_does_not_limit_training(start, settings):
    client = start(settings, memory_limit=MemoryLimit(reason="no cgroup was delegated"))
    memory = client.get("/info").json()["memory"]
    assert (memory["limit"], memory["limit_reason"]) == ("guard", "no cgroup was delegated")


def test_busy_database_is_503(client, daemon, monkeypatch):
    def busy(*_: object) -> None:
        raise DatabaseBusy("the database has been busy for 10 s")

    monkeypatch.setattr(daemon.db.erasures, "feedback", busy)
    response = client.delete("/feedback/x")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def test_full_disk_is_507_and_nothing_is_stored(client, no_room):
    response = client.post("/feedback", json={"prompt": "Hi", "response": "x" * 500_000, "rating": 1})
    assert response.status_code == 507
    assert "free some space" in response.json()["error"]["message"]
    assert client.get("/feedback").json()["feedback"] == []


def test_two_daemons_cannot_share_their_data(start, settings):
    start(settings)
    with pytest.raises(DataInUse, match=r"another daemon \(process \d+\) works with"):
        create_app(settings)


def test_successor_may_have_the_data(settings):
    for _ in range(2):
        with client_of(fake_app(settings)) as client:
            assert client.get("/info").status_code == 200


def test_everything_is_closed_at_the_end(settings):
    with client_of(fake_app(settings)) as client:
        daemon = client.app.state.daemon
        wait_until(lambda: client.get("/health").status_code == 200)
        with daemon.model_host.engine() as engine:
            assert not engine.closed
    assert engine.closed
    assert [thread.name for thread in threading.enumerate() if thread.name in ("loading", "jobs")] == []


def test_failure_to_compose_frees_the_data(settings: Settings):
    settings.data_dir.mkdir()
    settings.database_path.write_text("no database at all, and that is a pity")
    for _ in range(2):
        with pytest.raises(Exception, match="no SQLite database"):
            create_app(settings)
