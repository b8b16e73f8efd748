"""`lars-agent profile`: tokens for one profile, made, listed and revoked over HTTP."""

from __future__ import annotations

import pytest

from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import fake_app
from tests.service.cli.conftest import Typed, typed
from tests.service.dashboard.conftest import served

TOKEN = "correct horse battery"
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A function that types `lars-agent profile ...` to a daemon that has a token."""
    settings = Settings(data_dir=tmp_path / "data", server=Server(token=TOKEN), schedule={"enabled": False})
    with served(fake_app(settings)) as address:

        def run(*arguments: str, token: str = TOKEN) -> Typed:
            monkeypatch.setenv("LARS_AGENT_TOKEN", token)
            return typed("profile", *arguments, "--url", address)

        yield run


def test_a_token_is_made_once_listed_and_revoked(profile):
    first = profile("token", "ann").out
    token = first.splitlines()[0]
    assert token.startswith("lars-")
    assert "only time" in first
    again = profile("token", "ann").out
    assert token not in again
    assert "--new" in again
    made = profile("token", "ann", "--label", "phone", "--json").json
    listed = profile("token", "ann", "--json").json["tokens"]
    assert [row["label"] for row in listed] == ["", "phone"]
    assert [row["name"] for row in profile("--json", token=token).json["profiles"]] == ["ann"]
    refused = profile("token", "ann", token=token)
    assert (refused.code, "only the owner" in refused.err) == (1, True)
    assert f"revoked {made['id']}" in profile("token", "ann", "--revoke", made["id"]).out
    assert profile("--json", token=made["token"]).code == 1
    assert profile("token", "ann", "--revoke", "t-none").code == 1
    assert profile("token", "ann", "--revoke", "t-none", "--new").code == 2
    assert "default" in profile().out
