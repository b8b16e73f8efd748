"""The request log: off by default, whole once it is wanted, and without a word of anybody's."""

from __future__ import annotations

import re

import pytest
import structlog
from structlog.testing import capture_logs

from service.api import request_log
from service.process.log import configure, set_level
from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, wait_until

SECRET = "Alice-Example"


def requests(lines) -> list[dict]:
    return [line for line in lines if line["event"] == "request"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), schedule={"enabled": False}, log={"level": "debug"})
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


@pytest.fixture(autouse=True)
def fresh_logger(monkeypatch):
    """A logger that `capture_logs` reaches: one that has logged keeps the configuration that it logged by."""
    set_level("debug")  # other tests may have configured another
    monkeypatch.setattr(request_log, "log", structlog.get_logger())


@pytest.mark.parametrize(
    ("method", "path", "shown", "status"),
    [
        ("GET", f"/feedback?q={SECRET}", "/feedback", 200),
        ("GET", "/feedback/f-0123456789abcdef0123456", "/feedback/f-0123456789abcdef0123456", 404),
        ("DELETE", f"/profiles/{SECRET}", "/profiles/*", 422),
        ("GET", f"/v1/models/{SECRET}", "/v1/models/*", 404),
        ("GET", "/adapters/v3", "/adapters/v3", 404),
        ("GET", f"/adapters/{SECRET}%0Aevent=forged%1B[31m", "/adapters/*", 422),
        ("GET", "/v1/v1/models", "/v1/v1/models", 404),
        ("GET", f"/{SECRET}/jobs", "/*/jobs", 404),
        ("PUT", "/info", "/info", 405),
        (SECRET.upper(), "/info", "/info", 405),
        ("POST", "/generate", "/generate", 422),
    ],
)
def test_a_request_is_a_line_of_method_path_status_and_time_and_no_word_of_anybody_s(
    client, method, path, shown, status
):
    with capture_logs() as lines:
        client.request(method, path, headers={"user-agent": SECRET}, json={"inputs": SECRET, "colour": SECRET})
    (line,) = requests(lines)
    assert (line["path"], line["status"], line["log_level"]) == (shown, status, "debug")
    assert line["method"] == (method if method != SECRET.upper() else "*")
    assert {*line} == {"event", "log_level", "method", "path", "status", "ms"}
    assert line["ms"] >= 0
    assert SECRET.lower() not in str(lines).lower()


@pytest.mark.parametrize(
    ("peer", "headers", "shown"),
    [
        ("192.168.1.30", {}, "192.168.1.30"),
        ("2001:db8::7", {"x-forwarded-for": SECRET}, "2001:db8::/64"),
        ("127.0.0.1", {"x-forwarded-for": SECRET}, "127.0.0.1"),  # by a proxy that is not trusted
        ("127.0.0.1", {}, None),
    ],
)
def test_of_another_device_the_line_has_the_address(client, peer, headers, shown):
    with capture_logs() as lines:
        client_of(client.app, (peer, 4000)).get("/jobs", headers=headers)
    (line,) = requests(lines)
    assert line.get("client") == shown
    assert SECRET not in str(lines)


def test_a_streamed_reply_a_refusal_and_a_failure_are_logged_once(client, monkeypatch):
    monkeypatch.setattr(client.app.state.daemon.db.jobs, "list", lambda *_: 1 / 0)
    with capture_logs() as lines:
        client.post("/generate_stream", json={"inputs": "Hi"})
        client.get("/info", headers={"origin": "https://evil.example"})
        client.get("/jobs")
    assert [(line["path"], line["status"]) for line in requests(lines)] == [
        ("/generate_stream", 200),
        ("/info", 403),
        ("/jobs", 500),
    ]


def test_it_is_off_by_default_and_turned_on_and_off_without_a_restart(client, capsys):
    daemon = client.app.state.daemon
    configure("info")
    try:
        for level, count in (("info", 0), ("debug", 15), ("warning", 0)):
            daemon.use(daemon.settings.model_copy(update={"log": Settings(log={"level": level}).log}))
            for _ in range(15):
                client.get("/health")
            said = capsys.readouterr().out
            assert len(re.findall(r"\[debug *\] request", said)) == count  # more than ten: no line of it is left out
    finally:
        configure("debug")
        daemon.use(daemon.settings.model_copy(update={"log": Settings(log={"level": "debug"}).log}))


def test_the_default_level_shows_no_request(resident):
    with capture_logs() as lines:
        resident.get("/health")
    assert requests(lines) == []
