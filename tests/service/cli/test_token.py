"""`lars-agent token` and `sessions`, against a daemon that other devices reach."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.process.access_token import TOKEN_NAME
from service.settings.load import Settings
from tests.service.api.conftest import fake_app
from tests.service.dashboard.conftest import served

URL = "https://lars-agent.local"
PROXIED = {"x-forwarded-for": "192.168.1.30"}


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine whose settings name this data folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", "9")  # where nothing answers
    return tmp_path / "data"


@pytest.fixture
def shared(machine, monkeypatch, quiet) -> Iterator[str]:
    """The address of a daemon on that machine which other devices reach."""
    settings = Settings(data_dir=machine, server={"external_url": URL}, schedule={"enabled": False})
    with served(fake_app(settings)) as url:
        monkeypatch.setenv("LARS_AGENT_URL", url)
        monkeypatch.setenv("LARS_AGENT_SERVER__PORT", url.rpartition(":")[2].strip("/"))
        yield url


def visit(url: str, cookie: str) -> int:
    return httpx.get(f"{url}info", headers=PROXIED | {"cookie": cookie}).status_code


def test_a_link_lets_a_browser_in_which_is_listed_and_shown_the_door(shared, run):
    shown = run("token")
    link = next(line.strip() for line in shown.out.splitlines() if URL in line)
    code = link.removeprefix(f"{URL}/?code=")
    entered = httpx.post(f"{shared}enter", data={"code": code}, headers=PROXIED | {"user-agent": "curl/8"})
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert visit(shared, cookie) == 200
    (session,) = run("sessions", "--json").json
    assert session["client"] == "curl"
    assert session["id"] in run("sessions").out
    assert run("sessions", "end", session["id"], "--json").json == {"ended": session["id"]}
    assert visit(shared, cookie) == 401
    assert run("sessions").out == "no sessions\n"
    again = run("sessions", "end", session["id"])
    assert (again.code, "lars-agent sessions list" in again.err) == (1, True)


def test_the_token_is_shown_and_replaced_and_the_daemon_takes_the_new_one_at_once(shared, machine, run):
    old = run("token", "--show").out.strip()
    assert httpx.get(f"{shared}info", headers=PROXIED | {"authorization": f"Bearer {old}"}).status_code == 200
    new = run("token", "--new", "--json").json["token"]
    assert new == run("token", "--show").out.strip() != old
    for token, status in ((old, 401), (new, 200)):
        answer = httpx.get(f"{shared}info", headers=PROXIED | {"authorization": f"Bearer {token}"})
        assert answer.status_code == status
    assert stat.S_IMODE((machine / TOKEN_NAME).stat().st_mode) == 0o600


def test_before_the_first_start_it_is_made(machine, run):
    shown = run("token", "--show").out.strip()
    assert (machine / TOKEN_NAME).read_text().strip() == shown


def test_what_it_cannot_do_is_said_and_changes_nothing(machine, monkeypatch, run, quiet):
    assert "no daemon answers" in run("token").err
    assert run("token", "--show", "--new").code == 2
    there = run("token", "--show", "--url", "http://pi.local:8321")
    assert (there.code, "is on that device" in there.err) == (1, True)
    monkeypatch.setenv("LARS_AGENT_SERVER__TOKEN", "a token of the settings")
    assert run("token", "--show").out == "a token of the settings\n"
    assert "server.token is set" in run("token", "--new").err
    assert not machine.exists()


def test_where_only_this_device_gets_in_there_is_no_link(machine, monkeypatch, run, quiet):
    with served(fake_app(Settings(data_dir=machine, schedule={"enabled": False}))) as url:
        refused = run("token", "--url", url)
    assert (refused.code, "server.external_url" in refused.err) == (1, True)
