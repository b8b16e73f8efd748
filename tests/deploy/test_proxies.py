"""The reverse proxies of `deploy/`, with the real programs: `make rehearse-proxies`. Skipped where they are not."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from lars_agent.runtime.request import Piece
from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import FakeEngine, fake_app, token_of, wait_until
from tests.service.dashboard.conftest import served

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = "lars-agent.local"
PAGE = Path(__file__).parents[2] / "docs" / "other-devices.md"
ASKED = {"inputs": "What is my goat called?"}


class SlowEngine(FakeEngine):
    """Gives two pieces of a reply at once, and the rest while `gate` is open."""

    def _reply(self, ticket, error) -> None:
        for word in ("first ", "second "):  # a stream holds one back, until it knows that it is not the last
            ticket.give(Piece(word, (token_of(word),) if ticket.request.logprobs is not None else ()))
        super()._reply(ticket, error)


class Phone(httpx.Client):
    """A browser on another device, which trusts the certificate in `trusted`."""

    def __init__(self, port: int, trusted: Path) -> None:
        super().__init__(
            base_url=f"https://127.0.0.1:{port}",
            headers={"host": f"{NAME}:{port}", "origin": f"https://{NAME}:{port}"},
            verify=ssl.create_default_context(cafile=str(trusted)),
            timeout=30,
            trust_env=False,
        )

    def send(self, request, **options):
        request.extensions["sni_hostname"] = NAME
        return super().send(request, **options)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def running(*command: str, log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def caddy(folder: Path, daemon: str, port: int) -> Iterator[Path]:
    """Caddy as it is set up in `deploy/`, but for its ports and where it keeps its things; its authority."""
    own = f"{{\n\tadmin off\n\thttp_port {free_port()}\n\thttps_port {port}\n\tstorage file_system {folder}\n"
    text = (DEPLOY / "Caddyfile").read_text().replace("{\n", own, 1).replace("127.0.0.1:8321", daemon)
    (folder / "Caddyfile").write_text(text)
    root = folder / "pki" / "authorities" / "local" / "root.crt"
    with running("caddy", "run", "--config", str(folder / "Caddyfile"), log=folder / "log"):
        wait_until(lambda: root.exists() and listens(port))
        yield root


@contextmanager
def nginx(folder: Path, daemon: str, port: int) -> Iterator[Path]:
    """Nginx as it is set up in `deploy/`, with the certificate that the page makes."""
    make = next(line for line in PAGE.read_text().replace("\\\n", " ").splitlines() if "openssl req" in line)
    shown = make[make.index("openssl") :].replace("/etc/lars-agent/tls", str(folder))
    subprocess.run(["sh", "-c", shown], check=True, capture_output=True)
    text = (DEPLOY / "nginx.conf").read_text().replace("/etc/lars-agent/tls", str(folder))
    text = text.replace("    listen [::]:80;\n", "").replace("    listen [::]:443 ssl;\n", "")
    text = text.replace("listen 80;", f"listen {free_port()};").replace("listen 443 ssl;", f"listen {port} ssl;")
    (folder / "site").write_text(text.replace("127.0.0.1:8321", daemon))
    temporary = "".join(
        f"{one}_temp_path {folder}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log {folder}/access; {temporary} include {folder}/site; }}\n"
    )
    folder.chmod(0o755)
    with running("nginx", "-c", str(folder / "conf"), log=folder / "log"):
        wait_until(lambda: listens(port))
        yield folder / "certificate.pem"


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def answers(phone: Phone) -> bool:
    """Caddy listens before it has its certificate."""
    with suppress(httpx.TransportError):
        return phone.get("/health").status_code == 200
    return False


@pytest.fixture(scope="module", params=[caddy, nginx], ids=lambda one: one.__name__)
def house(request, tmp_path_factory):
    """The application, a phone before its proxy, and the token."""
    if shutil.which(request.param.__name__) is None:
        pytest.skip(f"there is no {request.param.__name__} here")
    folder, engines = tmp_path_factory.mktemp(request.param.__name__), list[SlowEngine]()

    def open_engine(installed) -> SlowEngine:
        engines.append(SlowEngine(app.state.daemon.store))
        return engines[-1]

    server = Server(external_url=f"https://{NAME}", trusted_proxies=("127.0.0.1",), writes_per_minute=0)
    settings = Settings(data_dir=folder / "data", server=server, schedule={"enabled": False})
    app, port = fake_app(settings, open_engine=open_engine), free_port()
    (folder / "proxy").mkdir()
    with served(app) as url, request.param(folder / "proxy", url.split("/")[2], port) as trusted:
        phone = Phone(port, trusted)
        wait_until(lambda: answers(phone))
        yield app, phone, engines[0]
        phone.close()


@pytest.fixture
def app(house):
    return house[0]


@pytest.fixture
def engine(house):
    house[2].gate.set()
    return house[2]


@pytest.fixture
def phone(house):
    """The phone, let in by the token."""
    app, phone, _ = house
    phone.cookies.clear()
    entered = phone.post("/enter", data={"token": app.state.daemon.sessions.token.value, "page": "/memory"})
    assert (entered.status_code, entered.headers["location"]) == (303, "./memory")
    kept = entered.headers["set-cookie"]
    assert all(part in kept for part in ("HttpOnly", "SameSite=strict", "Secure"))
    return phone


def test_nothing_is_there_without_the_token_and_all_with_the_cookie(house, phone):
    assert phone.get("/info").status_code == 200
    assert phone.get("/memory").headers["content-encoding"] == "gzip"
    phone.cookies.clear()
    assert phone.get("/info").status_code == 401
    assert "goat" not in phone.get("/memory").text


def test_a_reply_streams_piece_by_piece(phone, engine):
    engine.gate.clear()
    for path, body in (
        ("/generate_stream", ASKED),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "model": "default", "stream": True}),
        ("/api/generate", {"prompt": "Hi", "model": "default"}),
    ):
        engine.gate.clear()
        with phone.stream("POST", path, json=body) as answer:
            pieces = answer.iter_raw()
            read = ""
            while "first" not in read:
                read += next(pieces).decode()
            assert "echo" not in read
            engine.gate.set()
            assert "echo" in "".join(piece.decode() for piece in pieces), path


def test_events_come_while_the_stream_goes_on(phone):
    with phone.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next(answer.iter_raw())


def test_a_phone_that_goes_away_ends_its_reply(phone, engine):
    engine.gate.clear()
    with phone.stream("POST", "/generate_stream", json=ASKED) as answer:
        next(answer.iter_raw())
    wait_until(lambda: engine.tickets[-1].cancelled)


def test_a_large_body_is_the_daemon_s_to_take_or_refuse(phone):
    row = '{"prompt": "What is my goat called?", "completion": "' + "Pip " * 250 + '"}\n'
    taken = phone.post("/feedback/import", content=row * 2000, headers={"content-type": "application/x-ndjson"})
    assert (taken.status_code, len(row) * 2000 > 2_000_000) == (201, True)
    refused = phone.post("/feedback", content=b" " * 1_500_000, headers={"content-type": "application/json"})
    assert "server" in refused.json()["error"]["message"]
    assert refused.status_code == 413


def test_no_client_names_its_own_address(app, phone, engine):
    layer = app.middleware_stack
    while type(layer).__name__ != "ClientLimits":
        layer = getattr(layer, "app", None) or layer._app
    for header in ("x-forwarded-for", "X-Real-IP", "Forwarded"):
        assert phone.post("/generate", json=ASKED, headers={header: "6.6.6.6"}).status_code == 200
    assert [*layer._limits["server.generations_per_minute"]._due] == ["127.0.0.1"]
    phone.cookies.clear()
    assert phone.get("/info", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 401


def test_another_name_is_refused(phone):
    answer = phone.get("/info", headers={"host": "evil.example"})
    assert answer.status_code == 403 or not answer.content  # Caddy answers unknown names with nothing
