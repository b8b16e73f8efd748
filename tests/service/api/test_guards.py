"""Checks of Host, Origin and token."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from service.api.middleware import PAGES, without_port
from service.process.wrong_tokens import WrongTokens
from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import client_of, fake_app, wait_until

TOKEN = "correct horse battery"
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


def test_the_page_at_the_root_is_open_and_replies_there_are_not(locked):
    for method, status in (("GET", 200), ("HEAD", 200), ("POST", 401), ("PUT", 401)):
        assert locked.request(method, "/", json=REQUEST).status_code == status, method
    assert locked.post("/", json=REQUEST, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.app.state.daemon.db.interactions.count() == 1


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
    for site, status in ((None, 200), ("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)):
        headers = {"cookie": cookie} | ({} if site is None else {"sec-fetch-site": site})
        assert locked.get("/info", headers=headers).status_code == status, site
    assert locked.get("/info", headers={"cookie": cookie + "x"}).status_code == 401
    assert locked.delete("/feedback?tag=x", headers={"cookie": cookie, "origin": "http://x.y"}).status_code == 403
    assert "Max-Age=0" in locked.delete("/session", headers={"cookie": cookie}).headers["set-cookie"]
    assert locked.get("/info", headers={"cookie": cookie}).status_code == 401
    locked.cookies.clear()
    assert locked.get("/info").status_code == 401


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; x"])
@pytest.mark.parametrize(
    "sender",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
def test_a_form_of_another_site_is_refused_where_any_content_type_is_read(client, engine, kind, sender):
    engine.tickets.clear()
    body = json.dumps({"model": "default", "messages": [{"role": "user", "content": "Hi"}]})
    headers = sender | ({} if kind is None else {"content-type": kind})
    for path in ("/api/chat", "/api/generate", "/api/show", "/"):
        assert client.post(path, content=body, headers=headers).status_code == 403, path
    assert engine.tickets == []


VISIT = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
@pytest.mark.parametrize("path", ["/info", "/health", "/", "/static/docs.css", "/feedback/export", "/nothing"])
def test_another_site_s_page_can_embed_nothing_although_it_sends_no_origin(client, site, path):
    response = client.get(
        path, headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    )
    assert response.status_code == 403
    assert client.get(path, headers=VISIT | {"sec-fetch-site": site, "sec-fetch-dest": "iframe"}).status_code == 403


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_link_from_another_site_opens_pages_and_nothing_else(client, method):
    for path in sorted(PAGES):
        assert client.get(path, headers=VISIT).status_code == 200, path
    assert client.request(method, "/feedback?tag=x", headers=VISIT).status_code == 403
    for site in ("none", "same-origin"):
        assert client.get("/info", headers={"sec-fetch-site": site}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", {}, 200),
        ("GET", "/", {}, 200),
        ("GET", "/static/docs.css", {}, 200),
        ("GET", "/nothing", {}, 404),
        ("PUT", "/info", {}, 405),
        ("PUT", "/static/docs.css", {}, 405),
        ("GET", "/info", {"host": "evil.example"}, 403),
        ("POST", "/feedback", {"content-length": "9" * 12, "expect": "x"}, 413),
        ("POST", "/feedback", {"content-type": "application/json"}, 422),
        ("POST", "/generate_stream", {"content-type": "application/json"}, 200),
        ("GET", "/status", {}, 307),
        ("GET", "/feedback/", {}, 307),
    ],
)
def test_no_answer_is_taken_for_another_type(client, method, path, headers, status):
    content = json.dumps(REQUEST) if status == 200 else "{}"
    response = client.request(
        method, path, headers=headers, content=content if method == "POST" else None, follow_redirects=False
    )
    assert response.status_code == status
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]


def test_an_answer_to_an_error_of_ours_is_not_taken_for_another_type(client, monkeypatch):
    monkeypatch.setattr(client.app.state.daemon.db.jobs, "list", lambda *_: 1 / 0)
    response = client.get("/jobs")
    assert (response.status_code, response.headers["x-content-type-options"]) == (500, "nosniff")


def test_without_the_token_no_401_says_anything(locked):
    assert locked.get("/no-token").headers["x-content-type-options"] == "nosniff"
    assert locked.get("/info", headers={"host": "evil.example"}).json()["error"]["message"].endswith("allowed_hosts")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/feedback", "DELETE, GET, POST"),
        ("/feedback/f-1", "DELETE, GET, PATCH"),
        ("/feedback/export", "GET"),
        ("/adapters/rollback", "POST"),
        ("/adapters/v1", "GET"),
        ("/settings", "GET, PATCH"),
        ("/v1/models/a/b", "GET"),
        ("/", "GET, HEAD, POST"),
        ("/openapi.json", "GET, HEAD"),
        ("/static/docs.css", "GET, HEAD"),
        ("/enter", "POST"),
    ],
)
def test_a_405_names_all_methods_of_the_path_and_no_other(client, path, allowed):
    for method in {"OPTIONS", "PUT", "TRACE", "BREW", "POST", "HEAD"} - set(allowed.split(", ")):
        response = client.request(method, path)
        assert (response.status_code, response.headers.get("allow")) == (405, allowed), method


def test_every_documented_method_is_the_one_that_a_405_names(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        allowed = client.request("BREW", re.sub("{.*?}", "v1", path)).headers["allow"]
        of_page = {"GET", "HEAD"} if path in PAGES else set()
        assert allowed == ", ".join(sorted({name.upper() for name in operations} | of_page)), path


@pytest.fixture
def delays(locked, monkeypatch):
    """The delays of the answers to wrong tokens, which nobody waits for here."""
    slept = list[float]()

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    monkeypatch.setattr(locked.app.state.daemon, "wrong_tokens", WrongTokens(sleep=sleep))
    return slept


def guess_header(client) -> None:
    assert client.get("/info", headers={"authorization": "Bearer a-wrong-one-of-many"}).status_code == 401


def guess_page(client) -> None:
    assert client.get("/learned", headers={"authorization": "Bearer a-wrong-one-of-many"}).status_code == 200


def guess_form(client) -> None:
    assert client.post("/enter", data={"token": "a-wrong-one-of-many"}, follow_redirects=False).status_code == 303


def guess_code(client) -> None:
    assert client.post("/enter", data={"code": "a-wrong-one-of-many"}, follow_redirects=False).status_code == 303


GUESSES = (guess_header, guess_page, guess_form, guess_code)


@pytest.mark.parametrize("guess", GUESSES)
def test_a_guesser_is_slowed_down_and_the_owner_at_the_same_address_is_not(locked, delays, guess):
    for _ in range(8):
        guess(locked)
        assert locked.get("/info").status_code == 401  # no token is no guess
    assert delays == [0.25, 0.5, 1.0]
    right = {"authorization": f"Bearer {TOKEN}"}
    code = locked.post("/session/links", headers=right).json()["code"]
    for form in ({"token": TOKEN}, {"code": code}):
        entered = locked.post("/enter", data=form, follow_redirects=False)
        assert "set-cookie" in entered.headers
    locked.cookies.clear()
    assert locked.get("/info", headers=right).status_code == 200
    assert len(delays) == 3


@pytest.mark.parametrize("guess", [("/info", 429), ("/enter", 429)])
def test_more_guesses_at_once_are_refused_with_the_time_to_wait(locked, delays, monkeypatch, guess):
    path, status = guess
    wrong_tokens = locked.app.state.daemon.wrong_tokens
    monkeypatch.setattr(wrong_tokens, "_waiting", Counter({"127.0.0.1": 8}))
    method = "POST" if path == "/enter" else "GET"
    response = locked.request(method, path, headers={"authorization": "Bearer wrong"}, data={"token": "wrong"})
    assert response.status_code == status
    assert response.headers["retry-after"] == "1"
    assert locked.get("/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost", "localhost"), ("[::1]:80", "[::1]"), ("[", ""), ("x@localhost:80", "localhost")],
)
def test_host_without_its_port(host, name):
    assert without_port(host) in (name, "")
