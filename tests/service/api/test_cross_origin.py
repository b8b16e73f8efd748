"""Web pages of elsewhere (CORS): those that are listed may use the API, none may have what is the dashboard's."""

from __future__ import annotations

import pytest

from lars_agent.errors import ConfigError
from service.api.session import COOKIE
from service.settings.load import Settings, settings_of
from service.settings.server import Server
from tests.service.api.conftest import client_of, fake_app, wait_until

TOKEN = "correct horse battery"
CHAT, APP, OTHER = "https://chat.example", "app://obsidian.md", "https://evil.example"
OWN = "http://127.0.0.1:8321"
BEARER = {"authorization": f"Bearer {TOKEN}"}
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-lang"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a daemon that asks for a token and lists two origins."""
    server = Server(token=TOKEN, allowed_origins=(CHAT, APP))
    with client_of(fake_app(Settings(data_dir=tmp_path_factory.mktemp("data"), server=server))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


def allowed(answer) -> set[str]:
    return {name for name in answer.headers if name.startswith("access-control-allow")}


@pytest.mark.parametrize("origin", [CHAT, APP])
def test_a_listed_page_asks_first_and_then_uses_the_api_with_the_token(client, origin):
    asked = client.options("/v1/chat/completions", headers={"origin": origin} | ASKS)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)
    assert "POST" in asked.headers["access-control-allow-methods"].split(", ")
    assert asked.headers["access-control-allow-headers"] == ASKS["access-control-request-headers"]
    assert "Origin" in asked.headers["vary"]
    body = {"model": "default", "messages": [{"role": "user", "content": "Hi"}]}
    site = {"origin": origin, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    answer = client.post("/v1/chat/completions", json=body, headers=site | BEARER)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in {*asked.headers, *answer.headers}
    refused = client.get("/info", headers=site)  # in words that the page can read
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)


def test_chrome_is_told_that_a_listed_page_may_reach_a_private_network(client):
    private = {"access-control-request-private-network": "true"}
    asked = client.options("/info", headers={"origin": CHAT} | ASKS | private)
    assert asked.headers["access-control-allow-private-network"] == "true"
    assert allowed(client.options("/info", headers={"origin": OTHER} | ASKS | private)) == set()


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "", "http://chat.example", CHAT + ":8443", CHAT + ".evil", "app://x"]
)
@pytest.mark.parametrize("method", ["OPTIONS", "POST", "DELETE"])
def test_a_page_that_is_not_listed_is_refused_before_and_after_asking(client, origin, method):
    answer = client.request(method, "/feedback?tag=x", headers={"origin": origin} | ASKS | BEARER)
    assert (answer.status_code, allowed(answer)) == (403, set())
    assert "server.allowed_origins" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/session"), ("POST", "/session/links"), ("POST", "/enter")])
def test_a_listed_page_gets_neither_a_code_nor_the_cookie(client, method, path):
    for how in ("OPTIONS", method):
        answer = client.request(how, path, headers={"origin": CHAT} | ASKS | BEARER, data={"token": TOKEN})
        assert (answer.status_code, allowed(answer)) == (403, set())
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("site", [None, "same-site", "cross-site", "none", "same-origin"])
def test_the_cookie_is_no_use_to_a_listed_page(client, site):
    secret = client.post("/session", headers=BEARER).cookies[COOKIE]
    client.cookies.clear()
    headers = {"cookie": f"{COOKIE}={secret}"} | ({} if site is None else {"sec-fetch-site": site})
    assert client.get("/info", headers=headers | {"origin": CHAT}).status_code == 401
    own = 200 if site in (None, "none", "same-origin") else 401
    assert client.get("/info", headers=headers | {"origin": OWN}).status_code == own


def test_a_listed_page_embeds_nothing_and_comes_under_no_foreign_host(client):
    embedded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert client.get("/info", headers=embedded | BEARER).status_code == 403
    assert client.get("/info", headers={"origin": CHAT, "host": "chat.example"} | BEARER).status_code == 403
    two = [("origin", CHAT), ("origin", OTHER), *BEARER.items()]
    assert client.get("/info", headers=two).status_code == 403


def test_answers_to_all_depend_on_the_origin_for_caches(client):
    assert "Origin" in client.get("/static/docs.css").headers["vary"]


def test_without_a_list_nothing_of_it_is_there(resident):
    asked = resident.options("/info", headers={"origin": CHAT} | ASKS)
    assert (asked.status_code, allowed(asked)) == (403, set())
    answer = resident.get("/info", headers={"origin": OWN})
    assert (answer.status_code, "vary" in answer.headers, allowed(answer)) == (200, False, set())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HTTPS://Chat.Example", CHAT),
        ("https://chat.example:443", CHAT),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://nas:80", "https://nas:80"),
        ("app://obsidian.md", APP),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://gcbmajgeccknldpefimnkjoamoindjhn", "chrome-extension://gcbmajgeccknldpefimnkjoamoindjhn"),
        (
            "moz-extension://1f2e3d4c-0000-4000-8000-abcdefabcdef",
            "moz-extension://1f2e3d4c-0000-4000-8000-abcdefabcdef",
        ),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(given, kept):
    assert Server(allowed_origins=(given,)).allowed_origins == (kept,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("*", "every site"),
        ("null", "every site"),
        ("https://chat.example/", "scheme://host"),
        ("https://*.example", "scheme://host"),
        ("chrome-extension://*", "scheme://host"),
        ("chat.example", "scheme://host"),
        ("file://", "scheme://host"),
        ("file://home", "scheme://host"),
        ("https://münchen.example", "scheme://host"),
        ("https://a.example b.example", "scheme://host"),
        ("https://user@chat.example", "scheme://host"),
        ("", "scheme://host"),
    ],
)
def test_what_is_no_single_origin_is_refused_with_the_reason(given, words):
    with pytest.raises(ConfigError, match=r"server\.allowed_origins.*" + words):
        settings_of([("the file", {"server": {"allowed_origins": [given]}})])
