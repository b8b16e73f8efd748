"""Other devices: the token of the state folder, proxies, browsers' sessions, and limits for each address."""

from __future__ import annotations

import stat
from contextlib import ExitStack
from datetime import timedelta

import pytest

from lars_agent.errors import ConfigError, DiskFull
from service.api.forwarded import THIS_DEVICE, ForwardedClient
from service.api.forwarded import client_of as client_name
from service.api.routers import GENERATING_PATHS
from service.api.session import COOKIE
from service.app import compose
from service.process.access_token import TOKEN_NAME, AccessToken, write_token
from service.serving.sessions import LASTS, NOTED_EVERY, Sessions
from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import FakeModel, client_of, fake_app, opener, wait_until

URL = "https://lars-agent.local"
PHONE = {"x-forwarded-for": "192.168.1.30", "x-forwarded-proto": "https", "host": "lars-agent.local"}
FIREFOX = "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0"
ASKED = {"inputs": "What is my goat called?"}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A daemon on loopback behind a trusted proxy, with a conversation in it; one client for all, so that it is up."""
    server = Server(
        external_url=URL,
        trusted_proxies=("127.0.0.1",),
        generations_per_minute=3,
        writes_per_minute=4,
        max_streams_per_address=2,
    )
    folder = tmp_path_factory.mktemp("data")
    app = fake_app(Settings(data_dir=folder, server=server, schedule={"enabled": False}))
    with client_of(app) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        client.post("/generate", json=ASKED, headers={"lars-conversation": "goats"})
        yield app


@pytest.fixture
def client(app):
    """This device, which is also where the proxy's connections come from."""
    return client_of(app)


@pytest.fixture
def token(app) -> str:
    return app.state.daemon.sessions.token.value


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_the_token_is_made_once_and_its_owner_s_alone(tmp_path):
    file = tmp_path / "state" / TOKEN_NAME
    first = AccessToken(Server(), file.parent).value
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(first) >= 32
    assert AccessToken(Server(), file.parent).value == first
    assert AccessToken(Server(token="a token of the settings"), tmp_path / "other").value == "a token of the settings"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["", "short\n", "two lines of\n sixteen letters"])
def test_a_token_file_that_cannot_be_used_stops_the_start_and_later_lets_nobody_in(tmp_path, text):
    token = AccessToken(Server(), tmp_path)
    known = token.value
    (tmp_path / TOKEN_NAME).write_text(text)
    assert (token.value, token.is_given(""), token.is_given(known)) == (None, False, False)
    with pytest.raises(ConfigError, match="lars-agent token --new"):
        AccessToken(Server(), tmp_path)
    write_token(tmp_path / TOKEN_NAME)
    assert token.is_given(token.value)
    assert not token.is_given(known)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2"])
def test_a_public_host_asks_for_the_token_that_is_made_at_the_start(tmp_path, host):
    settings = Settings(data_dir=tmp_path, server={"host": host, "allowed_hosts": ["127.0.0.1"]})
    with client_of(fake_app(settings), client=("192.168.1.30", 4000)) as neighbour:
        assert neighbour.get("/info").status_code == 401
        assert neighbour.get("/info", headers=bearer((tmp_path / TOKEN_NAME).read_text().strip())).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        PHONE,
        {"forwarded": "for=1.2.3.4"},
        {"via": "1.1 Caddy"},
        {"x-real-ip": "10.0.0.1"},
        {"X-Forwarded-Host": "x"},
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-for": ""},
        {"x-forwarded-for": "127.0.0.1, ::1"},
    ],
)
def test_what_a_proxy_passes_on_needs_the_token_and_this_device_does_not(client, token, headers):
    assert client.get("/info").status_code == 200
    assert client.get("/info", headers=headers).status_code == 401
    assert client.get("/info", headers=headers | bearer(token)).status_code == 200
    page = client.get("/?conversation=goats", headers=headers)
    assert page.status_code == 200
    assert "goat" not in page.text
    assert "goat" in client.get("/?conversation=goats").text


@pytest.mark.parametrize(
    ("peer", "trusted", "named", "counts"),
    [
        ("127.0.0.1", (), None, THIS_DEVICE),
        ("::1", (), None, THIS_DEVICE),
        ("::ffff:127.0.0.1", (), None, THIS_DEVICE),
        ("127.0.0.1", (), "192.168.1.30", "127.0.0.1"),
        ("127.0.0.1", ("127.0.0.1",), "192.168.1.30", "192.168.1.30"),
        ("127.0.0.1", ("127.0.0.1",), "6.6.6.6, 192.168.1.30", "192.168.1.30"),
        ("127.0.0.1", ("127.0.0.1",), "2001:db8::7", "2001:db8::/64"),
        ("127.0.0.1", ("127.0.0.1",), "nonsense", ""),
        ("172.17.0.3", ("172.17.0.0/16",), "192.168.1.30", "192.168.1.30"),
        ("192.168.1.9", ("127.0.0.1",), "127.0.0.1", "192.168.1.9"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(tmp_path, peer, trusted, named, counts):
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append(client_name(scope))

    headers = [] if named is None else [(b"x-forwarded-for", named.encode())]
    scope = {"type": "http", "client": (peer, 1), "headers": headers, "scheme": "http"}
    with pytest.raises(StopIteration):
        ForwardedClient(app, Server(trusted_proxies=trusted))(scope, None, None).send(None)
    assert seen == [counts]


def enter(client, form, **headers):
    client.cookies.clear()
    answer = client.post("/enter", data=form, headers=PHONE | headers, follow_redirects=False)
    client.cookies.clear()
    return answer


def let_in(client, user_agent: str = FIREFOX) -> str:
    """The cookie of a browser that opened a link."""
    code = client.post("/session/links").json()["code"]
    return enter(client, {"code": code}, **{"user-agent": user_agent}).headers["set-cookie"].partition(";")[0]


def test_a_link_leads_the_phone_in_over_tls_once(client):
    link = client.post("/session/links").json()
    assert link["urls"] == [f"{URL}/?code={link['code']}"]
    assert {len(row) for row in link["qr"]} == {len(link["qr"])}
    assert set("".join(link["qr"])) == {"0", "1"}
    first, second = (enter(client, {"code": link["code"]}) for _ in range(2))
    kept = first.headers["set-cookie"]
    assert all(part in kept for part in ("HttpOnly", "SameSite=strict", "Secure", "Max-Age=2592000"))
    assert "refused=code" in second.headers["location"]
    assert "set-cookie" not in second.headers
    assert client.get("/info", headers=PHONE | {"cookie": kept.partition(";")[0]}).status_code == 200


def test_each_browser_has_a_session_of_its_own_which_is_listed_and_ended_alone(app, client):
    one, other = let_in(client), let_in(client, "evil <b>words</b>")
    assert one != other
    mine = client.get("/sessions", headers=PHONE | {"cookie": one}).json()
    assert mine["external_urls"] == [URL]
    current = [row for row in mine["sessions"] if row["is_current"]]
    assert [row["client"] for row in current] == ["Firefox, Android"]
    assert "words" not in str(mine)
    assert client.delete(f"/sessions/{current[0]['id']}", headers=PHONE | {"cookie": other}).status_code == 204
    assert client.get("/info", headers=PHONE | {"cookie": one}).status_code == 401
    assert client.get("/info", headers=PHONE | {"cookie": other}).status_code == 200
    gone = client.delete(f"/sessions/{current[0]['id']}")
    assert (gone.status_code, gone.json()["error"]["type"]) == (404, "not_found_error")
    secret = other.partition("=")[2]
    assert secret.encode() not in app.state.daemon.db.path.read_bytes()


def test_a_page_gives_the_cookie_again_so_that_a_browser_in_use_stays_in(client):
    cookie = let_in(client)
    page = client.get("/", headers=PHONE | {"cookie": cookie})
    assert page.headers["set-cookie"].startswith(f"{cookie}; HttpOnly; Max-Age=2592000")
    client.cookies.clear()
    assert "set-cookie" not in client.get("/", headers=PHONE | {"cookie": f"{COOKIE}=x"}).headers


@pytest.fixture
def daemon(tmp_path):
    """A daemon's parts, none of which runs; closed at the end."""
    settings = Settings(data_dir=tmp_path, server={"external_url": URL})
    daemon = compose(settings, find_model=FakeModel, open_engine=opener(settings))
    with ExitStack() as stack:
        stack.callback(daemon.lock.release)
        stack.callback(daemon.db.close)
        yield daemon


def test_sessions_survive_a_start_and_end_with_a_new_token_also_while_nobody_looks(daemon):
    secret, token = daemon.sessions.begin(FIREFOX), daemon.sessions.token
    again = Sessions(daemon.db, token)
    assert again.find(secret) is not None
    code = daemon.sessions.codes.new()
    write_token(daemon.settings.data_dir / TOKEN_NAME)
    assert daemon.sessions.find(secret) is None
    assert not daemon.sessions.codes.use(code)
    kept = daemon.sessions.begin(FIREFOX)
    write_token(daemon.settings.data_dir / TOKEN_NAME)
    assert Sessions(daemon.db, token).list() == []  # as after a start
    assert daemon.sessions.find(kept) is None


def test_a_session_ends_a_month_after_its_last_use_and_its_use_is_noted_now_and_then(daemon, monkeypatch):
    sessions, began, later = daemon.sessions, daemon.db.now(), [timedelta()]
    monkeypatch.setattr(sessions, "_now", lambda: began + later[0])
    secret = sessions.begin(FIREFOX)
    assert not sessions.is_due(sessions.find(secret))
    later[0] = NOTED_EVERY + timedelta(seconds=1)
    assert sessions.is_due(sessions.find(secret))
    monkeypatch.setattr(daemon.db.sessions, "use", full_disk)
    sessions.note_use(sessions.find(secret))
    assert not sessions.is_due(sessions.find(secret))
    later[0] += LASTS
    assert sessions.find(secret) is not None
    later[0] += timedelta(seconds=1)
    assert (sessions.find(secret), sessions.list()) == (None, [])


def full_disk(session_id: str) -> None:
    raise DiskFull("no room")


def test_an_address_that_asks_too_much_is_told_when_to_ask_again_and_no_other_is(client, token):
    def ask(path: str, address: str, **more: str):
        headers = PHONE | bearer(token) | {"x-forwarded-for": address} | more
        return client.post(path, json={**ASKED, "model": "default", "messages": [], "input": ""}, headers=headers)

    generated = [ask(path, "10.0.0.1").status_code for path in ("/generate", "/", "/generate_stream")]
    assert 429 not in generated
    for path in ("/generate", "/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/embeddings"):
        refused = ask(path, "10.0.0.1")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "20"), path
        assert "server.generations_per_minute" in refused.text
    writes = [ask("/feedback", "10.0.0.1").status_code for _ in range(5)]
    assert (writes.count(422), writes[-1]) == (4, 429)
    assert client.get("/info", headers=PHONE | bearer(token) | {"x-forwarded-for": "10.0.0.1"}).status_code == 200
    assert ask("/feedback", "10.0.0.2").status_code == 422
    assert [client.post("/feedback", json={}).status_code for _ in range(6)] == [422] * 6  # this device


def test_replies_and_streams_of_an_address_are_limited_at_a_time(app, client, token):
    limits = next(one for one in stack_of(app) if type(one).__name__ == "ClientLimits")
    limits._streams["10.0.1.1"] = 2
    headers = PHONE | bearer(token) | {"x-forwarded-for": "10.0.1.1"}
    for method, path in (("POST", "/generate"), ("GET", "/events"), ("GET", "/jobs/j-1/events")):
        refused = client.request(method, path, json=ASKED, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert "server.max_streams_per_address" in refused.text
    assert client.get("/info", headers=headers).status_code == 200
    limits._streams["10.0.1.1"] = 1
    assert client.post("/generate", json=ASKED, headers=headers).status_code == 200
    assert limits._streams["10.0.1.1"] == 1  # an answer frees its place


def stack_of(app):
    layer = app.middleware_stack
    while layer is not None:
        yield layer
        layer = getattr(layer, "app", None) or getattr(layer, "_app", None)


def test_every_path_at_which_the_model_works_is_limited():
    assert {"/", "/generate", "/v1/responses", "/v1/completions", "/api/generate", "/api/embed"} <= GENERATING_PATHS
    assert GENERATING_PATHS.isdisjoint({"/feedback", "/jobs", "/session/links", "/enter"})
