"""Checks of Host, Origin and token."""

from __future__ import annotations

import pytest

from lars_agent.errors import ConfigError
from service.api.middleware import without_port
from service.settings.load import Settings
from service.settings.sections import Server
from tests.service.api.conftest import client_of, fake_app, wait_until

TOKEN = "correct horse"
REQUEST = {"inputs": "Hi"}


@pytest.fixture(scope="module")
def client(resident):
    return resident


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A client of a daemon that asks for a token."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), server=Server(token=TOKEN))
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1", "1" * 999],
)
def test_foreign_host_is_refused(client, engine, host):
    engine.tickets.clear()
    response = client.post("/generate", json=REQUEST, headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"
    assert engine.tickets == []


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:8321", "[::1]:8321", "localhost:1"])
def test_own_host_is_answered(client, host):
    assert client.post("/generate", json=REQUEST, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:83210", "file://", ""]
)
def test_foreign_origin_is_refused(client, engine, origin):
    engine.tickets.clear()
    response = client.post("/generate", json=REQUEST, headers={"origin": origin})
    assert response.status_code == 403
    assert client.delete("/feedback?tag=x", headers={"origin": origin}).status_code == 403
    assert engine.tickets == []


def test_own_origin_is_answered(client):
    assert client.post("/generate", json=REQUEST, headers={"origin": "http://127.0.0.1:8321"}).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xe4", f"Bearer {TOKEN}x"]
)
def test_request_without_the_token_is_refused(locked, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    response = locked.post("/generate", json=REQUEST, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"
    assert locked.app.state.daemon.db.interactions.count() == 0


def test_every_route_but_health_asks_for_the_token(locked):
    for path in ("/info", "/feedback", "/interactions", "/adapters", "/jobs", "/nothing", "/health/x"):
        assert locked.get(path).status_code == 401, path
    assert locked.get("/ready").status_code == 200


def test_request_with_the_token_is_answered(locked):
    response = locked.post("/generate", json=REQUEST, headers={"authorization": f"bearer {TOKEN}"})
    assert response.status_code == 200


def test_a_session_stands_for_the_token_in_pages_of_this_daemon_alone(locked):
    assert locked.post("/session", headers={"authorization": "Bearer wrong"}).status_code == 401
    begun = locked.post("/session", headers={"authorization": f"Bearer {TOKEN}"})
    assert begun.status_code == 204
    kept = begun.headers["set-cookie"]
    assert all(part in kept for part in ("HttpOnly", "SameSite=strict", "Max-Age=2592000"))
    assert TOKEN not in kept
    cookie = kept.partition(";")[0]
    locked.cookies.clear()
    for site, status in ((None, 200), ("same-origin", 200), ("none", 200), ("same-site", 401), ("cross-site", 401)):
        headers = {"cookie": cookie} | ({} if site is None else {"sec-fetch-site": site})
        assert locked.get("/info", headers=headers).status_code == status, site
    assert locked.get("/info", headers={"cookie": cookie + "x"}).status_code == 401
    assert locked.delete("/feedback?tag=x", headers={"cookie": cookie, "origin": "http://x.y"}).status_code == 403
    assert "Max-Age=0" in locked.delete("/session", headers={"cookie": cookie}).headers["set-cookie"]
    locked.cookies.clear()
    assert locked.get("/info").status_code == 401


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost", "localhost"), ("[::1]:80", "[::1]"), ("[", ""), ("x@localhost:80", "localhost")],
)
def test_host_without_its_port(host, name):
    assert without_port(host) in (name, "")


def test_public_host_without_a_token_is_refused_at_start(tmp_path):
    with pytest.raises(ConfigError, match=r"server\.token"):
        fake_app(Settings(data_dir=tmp_path, server={"host": "192.168.1.2"}))
