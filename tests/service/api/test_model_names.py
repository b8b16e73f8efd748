"""One name means one thing in every dialect: profiles and versions first, then the base model, then aliases."""

from __future__ import annotations

import pytest

from lars_agent.errors import ConfigError
from lars_agent.example import Message
from service.api.model_names import UnknownModel, resolve
from service.db import NewFeedback
from service.settings import load_settings
from tests.store.make import make_candidate, make_draft

ASKED = [{"role": "user", "content": "Hello?"}]
DIALECTS = {
    "/generate": lambda name: {"inputs": "Hi", "parameters": {"adapter_id": name}},
    "/generate_stream": lambda name: {"inputs": "Hi", "parameters": {"adapter_id": name}},
    "/v1/chat/completions": lambda name: {"model": name, "messages": ASKED},
    "/v1/completions": lambda name: {"model": name, "prompt": "Hi"},
    "/api/chat": lambda name: {"model": name, "messages": ASKED},
    "/api/generate": lambda name: {"model": name, "prompt": "Hi"},
}
ASKING_NOTHING = {
    "/api/chat": lambda name: {"model": name},
    "/api/show": lambda name: {"model": name},
}


@pytest.fixture
def alice(daemon, tmp_path) -> None:
    daemon.store.publish("alice", make_candidate(tmp_path / "c"), make_draft())


def give_aliases(daemon, **aliases: str) -> None:
    server = daemon.settings.server.model_copy(update={"model_aliases": aliases})
    daemon.settings = daemon.settings.model_copy(update={"server": server})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (None, ("default", "active")),
        ("", ("default", "active")),
        ("default", ("default", "active")),
        ("default:latest", ("default", "active")),
        ("base", ("default", None)),
        ("base:latest", ("default", None)),
        ("fake", ("default", None)),
        ("v3", ("default", 3)),
        ("alice", ("alice", "active")),
        ("alice@v12", ("alice", 12)),
        ("alice@v12:latest", ("alice", 12)),
        ("alice@base", ("alice", None)),
        ("default@v1", ("default", 1)),
    ],
)
@pytest.mark.usefixtures("client", "alice")
def test_a_name_stands_for(daemon, name, meant):
    assert resolve(daemon, name) == meant


def test_the_default_profile_comes_before_a_base_model_of_the_same_name(client, daemon, monkeypatch):
    class CalledDefault:
        name = reference = "default"

    monkeypatch.setattr(daemon.serving, "require_model", CalledDefault)
    assert resolve(daemon, "default") == ("default", "active")


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("name", ["nobody", "gpt-4o", "no such", "../x", "base@v1", "v99999999999@v1", "Alice"])
def test_unknown_name_is_a_404_that_lists_the_names(client, daemon, engine, alice, path, name):
    give_aliases(daemon, helper="alice")
    answer = client.post(path, json=DIALECTS[path](name))
    assert answer.status_code == 404
    error = answer.json()["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert "alice, default, base, helper" in message
    assert "feedback" in message
    if not path.startswith("/api/"):
        assert error["param"] == ("parameters.adapter_id" if "generate" in path else "model")
    assert engine.tickets == []
    assert daemon.db.interactions.count() == 0


@pytest.mark.parametrize("path", ASKING_NOTHING)
def test_unknown_name_is_a_404_where_no_reply_is_asked_for(client, path):
    assert client.post(path, json=ASKING_NOTHING[path]("nobody")).status_code == 404


def test_a_profile_begins_with_feedback_that_names_it(client, daemon):
    with pytest.raises(UnknownModel):
        resolve(daemon, "bob")
    prompt = (Message(role="user", content="Hi"),)
    daemon.db.feedback.add(NewFeedback(profile="bob", messages=prompt, response="Ho", rating=1.0))
    assert resolve(daemon, "bob") == ("bob", "active")
    assert "bob" in [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert "bob" in [model["name"] for model in client.get("/api/tags").json()["models"]]


@pytest.mark.parametrize("path", DIALECTS)
def test_an_alias_reaches_its_profile(client, daemon, engine, alice, path):
    give_aliases(daemon, **{"gpt-4o": "alice@v1"})
    assert client.post(path, json=DIALECTS[path]("gpt-4o")).status_code == 200
    request = engine.tickets[0].request
    assert (request.profile, request.version) == ("alice", 1)


def test_an_alias_hides_nothing(client, daemon, alice):
    give_aliases(daemon, alice="base", base="alice", fake="alice")
    assert resolve(daemon, "alice") == ("alice", "active")
    assert resolve(daemon, "base") == resolve(daemon, "fake") == ("default", None)


def test_an_alias_whose_profile_does_not_exist_is_unknown(client, daemon):
    give_aliases(daemon, **{"gpt-4o": "nobody"})
    assert client.get("/v1/models/gpt-4o").status_code == 404


def test_models_are_shown_under_every_name(client, daemon, alice):
    give_aliases(daemon, **{"gpt-4o": "alice"})
    assert client.get("/v1/models/gpt-4o").json()["id"] == "alice"
    assert client.get("/v1/models/fake").json()["id"] == "base"
    assert client.post("/api/show", json={"model": "alice:latest"}).status_code == 200
    assert "gpt-4o" in [model["id"] for model in client.get("/v1/models").json()["data"]]


def test_aliases_are_read_from_file_and_environment(tmp_path, monkeypatch):
    file = tmp_path / "config.toml"
    file.write_text('[server.model_aliases]\n"gpt-4o" = "default"\n')
    monkeypatch.setenv("LARS_AGENT_SERVER__MODEL_ALIASES", '{"llama3": "alice@v2"}')
    assert load_settings(file).server.model_aliases == {"gpt-4o": "default", "llama3": "alice@v2"}


@pytest.mark.parametrize("target", ["Alice Smith", "", "alice@3", "gpt-4o@"])
def test_alias_to_what_cannot_be_a_name_is_refused(tmp_path, target):
    file = tmp_path / "config.toml"
    file.write_text(f'[server.model_aliases]\n"gpt-4o" = "{target}"\n')
    with pytest.raises(ConfigError, match=r"model_aliases\.gpt-4o"):
        load_settings(file)
