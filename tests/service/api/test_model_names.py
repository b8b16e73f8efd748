"""The namespace of `model` and `adapter_id`: each name in every dialect, and the error for unknown ones."""

from __future__ import annotations

import pytest

from lars_agent.errors import AdapterNotFound
from lars_agent.store.names import parse_adapter_name
from service.api.model_names import MAX_LISTED, ModelNames, base_names
from service.settings.load import Settings
from tests.service.api.conftest import wait_until
from tests.store.make import make_candidate, make_draft

ALIASES = {"gpt-4o": "default", "mine": "alice@v2", "raw": "base", "later": "carol", "alice": "base", "org/name": "v1"}
ASK = {"role": "user", "content": "Hi"}
DIALECTS = {
    "/generate": lambda name: {"inputs": "Hi", "parameters": {"adapter_id": name}},
    "/generate_stream": lambda name: {"inputs": "Hi", "parameters": {"adapter_id": name}},
    "/v1/chat/completions": lambda name: {"model": name, "messages": [ASK]},
    "/v1/completions": lambda name: {"model": name, "prompt": "Hi"},
    "/api/chat": lambda name: {"model": name, "messages": [ASK]},
    "/api/generate": lambda name: {"model": name, "prompt": "Hi"},
}


class ListedProfiles(list):
    """Profiles that exist because the test says so."""

    def names(self) -> list[str]:
        return list(self)


def names_of(*profiles: str, reference: str = "org/name@main") -> ModelNames:
    return ModelNames(ListedProfiles(["default", *profiles]), base_names("smollm2", reference), ALIASES)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("base", ("default", None)),
        ("default", ("default", "active")),
        ("v3", ("default", 3)),
        ("alice", ("alice", "active")),
        ("alice@v12", ("alice", 12)),
        ("alice@base", ("alice", None)),
        ("default@v1", ("default", 1)),
        *((text, None) for text in ("", "@", "alice@", "@v1", "base@v1", "v1@v1", "alice@v0", "alice@x", "../x", "A")),
        *((text, None) for text in ("org/name", "gpt 4", "alice@v1\n", "a" * 65, "alice@v1@v1", "alice@v9999999999")),
    ],
)
def test_text_is_parsed_as_an_adapter_or_not_at_all(name, meant):
    parsed = parse_adapter_name(name)
    assert parsed == meant
    assert parsed is None or parse_adapter_name(parsed.label).version == parsed.version


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (None, ("default", "active")),
        ("", ("default", "active")),
        ("default", ("default", "active")),
        ("default:latest", ("default", "active")),
        ("v3:latest", ("default", 3)),
        ("alice", ("alice", "active")),
        ("alice@v12:latest", ("alice", 12)),
        ("alice@base", ("alice", None)),
        ("base", ("default", None)),
        ("base:latest", ("default", None)),
        ("smollm2", ("default", None)),
        ("org/name@main", ("default", None)),
        ("org/name", ("default", None)),
        ("name:latest", ("default", None)),
        ("gpt-4o", ("default", "active")),
        ("gpt-4o:latest", ("default", "active")),
        ("mine", ("alice", 2)),
        ("raw", ("default", None)),
    ],
)
def test_name_means_a_profile_first_then_the_base_model_then_an_alias(name, meant):
    assert names_of("alice").resolve(name) == meant


def test_the_base_model_s_reference_does_not_hide_the_profile_of_that_name():
    assert names_of(reference="default").resolve("default") == ("default", "active")


def test_profile_hides_the_base_model_s_name_and_an_alias_of_its_own_name():
    names = names_of("smollm2", "gpt-4o", "alice")
    assert names.resolve("smollm2") == ("smollm2", "active")
    assert names.resolve("gpt-4o") == ("gpt-4o", "active")
    assert set(names.working_aliases()) == {"mine", "raw"}


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("default", {"smollm2", "default"}),
        ("org/name@main/x", {"smollm2", "org/name@main/x", "org/name", "name"}),
        ("/m/a@b/model.gguf", {"smollm2", "/m/a@b/model.gguf", "model.gguf"}),
    ],
)
def test_the_base_model_has_the_names_of_its_repository_folder_or_file(reference, names):
    assert base_names("smollm2", reference) == names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bob", r"no model 'bob'; there are: base, default, alice, .*POST /feedback with \"profile\": \"bob\""),
        ("bob@v2", r"\"profile\": \"bob\""),
        ("later", r"no model 'later'; .*\"profile\": \"carol\""),
        ("gpt 4", r"no model 'gpt 4'; .*server\.model_aliases"),
        ("base@v1", "server.model_aliases"),
        (":latest", "no model ''"),
        ("x\0\ud800", r"no model 'x\\x00\\ud800'"),
    ],
)
def test_unknown_name_is_refused_with_the_names_there_are(name, words):
    with pytest.raises(AdapterNotFound, match=words):
        names_of("alice").resolve(name)


def test_refusal_lists_no_more_names_than_can_be_read():
    profiles = [f"p{i}" for i in range(100)]
    with pytest.raises(AdapterNotFound, match=r"p17 and 85 more \(GET /v1/models\)") as refused:
        names_of(*profiles).resolve("bob")
    assert "p18" not in str(refused.value)
    assert MAX_LISTED == 20


@pytest.fixture
def client(start, settings, tmp_path):
    """A daemon whose default profile uses v1, and whose profile `alice` has feedback alone."""
    server = {"model_aliases": {"gpt-4o": "default", "later": "carol", "alice": "base", "fake": "default"}}
    client = start(Settings(**settings.model_dump(exclude={"server"}), server=server))
    wait_until(lambda: client.get("/health").status_code == 200)
    client.app.state.daemon.store.publish("default", make_candidate(tmp_path / "c"), make_draft())
    assert client.post("/adapters/v1/activate").status_code == 200
    begin(client, "alice")
    return client


def begin(client, profile: str) -> None:
    said = {"prompt": "Hi", "response": "Yo", "rating": "up", "profile": profile}
    assert client.post("/feedback", json=said).status_code == 201


@pytest.mark.parametrize("path", DIALECTS)
def test_every_dialect_means_the_same_by_a_name(client, engine, path):
    meanings = {None: 1, "default": 1, "default:latest": 1, "gpt-4o": 1, "v1": 1, "alice": None, "fake": None}
    for name, version in meanings.items():
        answer = client.post(path, json=DIALECTS[path](name))
        assert answer.status_code == 200, answer.text
        assert engine.tickets[-1].version == version, name
        assert engine.tickets[-1].request.profile == ("alice" if name == "alice" else "default")
        label = "base" if version is None else "v1"
        assert f'"{label}"' in answer.text or f'"default@{label}"' in answer.text


@pytest.mark.parametrize("path", [*DIALECTS, "/api/show"])
def test_unknown_name_is_not_found_in_the_dialect_s_own_shape(client, engine, path):
    body = DIALECTS.get(path, lambda name: {"model": name})
    for name in (
        "bob",
        "bob@v1",
        "Alice",
        "org/Some-Model",
        "org/Some-Model:latest",
        "later",
        "../x",
        "alice@v0",
        "base@v1",
        "v9" * 20,
        "v99999999999999999999@v1\0",
    ):
        answer = client.post(path, json=body(name))
        assert answer.status_code == 404, name
        error = answer.json()["error"]
        words = error if path.startswith("/api/") else error["message"]
        assert "there are: base, alice, default, gpt-4o" in words
        assert path.startswith("/api/") or error["type"] == "not_found_error"
    assert engine.tickets == []
    assert client.app.state.daemon.db.feedback.profiles() == ["alice"]


def test_first_feedback_creates_the_profile(client):
    refused = client.post("/generate", json=DIALECTS["/generate"]("bob")).json()["error"]["message"]
    assert 'POST /feedback with "profile": "bob"' in refused
    begin(client, "bob")
    assert client.post("/generate", json=DIALECTS["/generate"]("bob")).status_code == 200


def test_the_same_names_are_listed_everywhere_and_each_is_answered(client):
    listed = [card["id"] for card in client.get("/v1/models").json()["data"]]
    assert listed == ["base", "alice", "default", "default@v1", "gpt-4o"]
    assert [model["name"] for model in client.get("/api/tags").json()["models"]] == listed
    assert list(client.get("/info").json()["serving"]) == ["alice", "default"]
    for name in listed:
        assert client.get(f"/v1/models/{name}").json()["id"] == name
        assert client.post("/api/show", json={"model": f"{name}:latest"}).status_code == 200
        assert client.post("/v1/chat/completions", json=DIALECTS["/v1/chat/completions"](name)).status_code == 200


def test_model_s_card_says_what_serves_it(client):
    roots = {name: client.get(f"/v1/models/{name}").json()["root"] for name in ("gpt-4o", "default:latest", "fake")}
    assert roots == {"gpt-4o": "default@v1", "default:latest": "default@v1", "fake": "fake"}
    assert client.get("/v1/models/default@v7").status_code == 404


def test_ollama_neither_loads_nor_unloads_an_unknown_model(client, daemon):
    assert client.post("/api/generate", json={"model": "bob", "keep_alive": 0}).status_code == 404
    assert not daemon.model_host.is_asleep
