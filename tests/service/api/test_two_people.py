"""Two people on one device: what a token that is bound to a profile sees of the other's, which is nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.routing import Route

from service.api import access, events
from service.api.caller import Caller, answering
from service.api.middleware import is_open
from service.app import EVERY_ROUTER
from service.daemon import Daemon
from tests.service.api.people import ALIASES, CONVERSATION, TOKEN, Person, made, two_people

ROUTES = sorted(
    {
        (method, route.path)
        for router in EVERY_ROUTER
        for route in router.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
)
STREAM = "/events"  # without end; see `test_the_stream_of_state_tells_only_of_one_s_own`
GETS = [path for method, path in ROUTES if method == "GET" and path != STREAM]
WITH_IDS = [
    (method, path)
    for method, path in ROUTES
    if "{" in path and access.may_use(method, path) and "{version}" not in path  # of the profile in the query
]
TELLING = {"/feedback", "/interactions", "/conversations", "/jobs", "/adapters", "/schedule/runs", "/v1/files", "/info"}
TELLING |= {"/feedback/export", "/v1/models", "/api/tags", "/v1/fine_tuning/jobs", "/profiles", "/memory", "/learned"}
NOTHING = dict.fromkeys(access.NAMED, "nothing")
People = tuple[Person, Person, Daemon]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Iterator[People]:
    with two_people(tmp_path_factory.mktemp("people")) as made:
        yield made


def filled(path: str, ids: dict[str, str]) -> str:
    return path.replace(":path}", "}").format_map(ids)


@pytest.mark.parametrize("path", GETS)
def test_nothing_that_can_be_read_tells_one_of_the_other(people, path):
    alice, bob, _ = people
    ids = bob.ids
    ways = {"profile": bob.name, "id": ids["feedback_id"], "conversation": CONVERSATION, "file": ids["file_id"]}
    ways |= {"after": ids["feedback_id"], "q": bob.facts[3], "verify": "true"}
    documented = alice.http.app.openapi()["paths"].get(path.replace(":path}", "}"), {}).get("get", {})
    taken = {one["name"] for one in documented.get("parameters", ())} & ways.keys()
    for query in ({}, *({name: ways[name]} for name in sorted(taken))):
        for named in (alice.ids, bob.ids) if "{" in path else ({},):
            answer = alice.ask("GET", filled(path, named), params=query)
            assert answer.status_code < 500, answer.text
            asked = {text for text in (bob.name, bob.facts[3]) if text in str(answer.request.url)}
            assert set(bob.told_in(answer.content)) <= asked, (query, answer.text)
    own = bob.ask("GET", filled(path, ids))  # what is looked for is there to be found
    assert own.status_code != 200 or path not in TELLING or bob.told_in(own.content)


@pytest.mark.parametrize(("method", "path"), WITH_IDS)
def test_what_is_the_other_s_is_answered_as_what_does_not_exist(people, method, path):
    alice, bob, daemon = people
    before = state(daemon)
    theirs, none = (filled(path, {**alice.ids, **ids}) for ids in (bob.ids, NOTHING))
    got, expected = (alice.ask(method, one, json={} if method in ("PATCH", "POST") else None) for one in (theirs, none))
    names = access.NAMED.keys() & {part.strip("{}").partition(":")[0] for part in path.split("/")}
    same = got.text
    for name in names:
        same = same.replace(bob.ids[name], NOTHING[name])
    assert (got.status_code, same) == (expected.status_code, expected.text)
    assert got.status_code in (404, 422)
    assert state(daemon) == before


def state(daemon: Daemon) -> list[object]:
    """What Bob has."""
    own = daemon.db.of("bob")
    rows = (own.feedback.count(), own.interactions.count(), len(own.files.list(9)), len(own.erasures.list()))
    return [rows, [(job.id, job.status) for job in own.jobs.list()], daemon.store.active("bob")]


def test_every_route_says_whether_the_owner_alone_may_use_it():
    def named(table) -> list[tuple[str, str]]:
        return [(method, path) for method, paths in table.items() for path in paths]

    own, owners = named(access.OWN), named(access.OWNERS)
    opened = [route for route in ROUTES if is_open(route[1], route[0])]
    assert len({*own, *owners, *opened}) == len([*own, *owners, *opened])
    assert sorted([*own, *owners, *opened]) == ROUTES
    parameters = {name for router in EVERY_ROUTER for route in router.routes for name in route.param_convertors}
    assert parameters == {*access.NAMED, "token_id"}


def test_a_route_that_says_nothing_of_callers_is_refused_to_bound_ones(people, monkeypatch):
    alice, _, _ = people
    assert alice.ask("GET", "/info").status_code == 200
    monkeypatch.setattr(access, "OWN", {})
    answer = alice.ask("GET", "/info")
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert owner(alice).ask("GET", "/info").status_code == 200
    monkeypatch.undo()
    monkeypatch.setattr(access, "NAMED", {})
    assert alice.ask("GET", f"/feedback/{alice.ids['feedback_id']}").status_code == 403


def owner(person: Person) -> Person:
    return Person("owner", person.http, TOKEN)


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, paths in access.OWNERS.items() for path in paths]
)
def test_what_is_about_the_device_is_the_owner_s_alone(people, method, path):
    alice, bob, _ = people
    for ids in (alice.ids, bob.ids):
        answer = alice.ask(method, filled(path, ids), json={} if method in ("PATCH", "POST") else None)
        assert answer.status_code == 403, answer.text
        assert "only the owner of this device" in answer.json()["error"]["message"]
        assert bob.told_in(answer.content) == []


CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
DIALECTS = {
    "/generate": lambda model: {"inputs": "Hi", "parameters": {"adapter_id": model}},
    "/generate_stream": lambda model: {"inputs": "Hi", "parameters": {"adapter_id": model}},
    "/v1/chat/completions": lambda model: {**CHAT, "model": model},
    "/v1/completions": lambda model: {"prompt": "Hi", "model": model},
    "/v1/responses": lambda model: {"input": "Hi", "model": model},
    "/v1/messages": lambda model: {**CHAT, "model": model, "max_tokens": 5},
    "/v1/embeddings": lambda model: {"input": "Hi", "model": model},
    "/api/chat": lambda model: {**CHAT, "model": model},
    "/api/generate": lambda model: {"prompt": "Hi", "model": model},
    "/api/embed": lambda model: {"input": "Hi", "model": model},
    "/api/embeddings": lambda model: {"prompt": "Hi", "model": model},
    "/api/show": lambda model: {"model": model},
    "/api/delete": lambda model: {"model": model},
    "/v1/fine_tuning/jobs": lambda model: {"model": model, "training_file": "file-1"},
}


@pytest.mark.parametrize("path", DIALECTS)
def test_names_of_other_profiles_name_nothing_in_any_dialect(people, path):
    alice, _, daemon = people
    method = "DELETE" if path == "/api/delete" else "POST"
    before = daemon.db.interactions.count()
    for name in ("bob", "bob@v1", "bob:latest", "bob@base", "default", "v1", "his"):
        answer = alice.ask(method, path, json=DIALECTS[path](name))
        none = alice.ask(method, path, json=DIALECTS[path]("nobody"))
        assert (answer.status_code, none.status_code) == (404, 404), (name, answer.text)
        assert answer.text.replace(repr(name)[1:-1].removesuffix(":latest"), "nobody") == none.text, name
    assert daemon.db.interactions.count() == before


def test_only_one_s_own_names_and_the_base_model_are_listed(people):
    alice, _, _ = people
    names = {"base", "plain", "alice", "alice@v1", "hers"}
    assert {card["id"] for card in alice.ask("GET", "/v1/models").json()["data"]} == names
    assert {card["name"] for card in alice.ask("GET", "/api/tags").json()["models"]} == names
    assert {card["id"] for card in owner(alice).ask("GET", "/v1/models").json()["data"]} > {*names, "bob", "his"}
    assert {*ALIASES} > {"his"}


@pytest.mark.parametrize("model", [None, "base", "plain", "fake", "alice", "alice@v1", "alice@base", "hers"])
def test_whatever_name_one_uses_it_is_asked_and_kept_as_one_s_own(people, model):
    alice, bob, daemon = people
    with daemon.model_host.engine() as engine:
        before = len(engine.tickets)
        body = {"inputs": "What is behind door 03?", "parameters": {"recall": True, "adapter_id": model}}
        reply = alice.ask("POST", "/generate", json=body).json()
        request = engine.tickets[before].request
    assert request.profile == "alice"
    assert alice.told_in(repr(request.recalled).encode())
    assert bob.told_in(repr(request.recalled).encode()) == []
    assert daemon.db.interactions.get(reply["interaction_id"]).profile == "alice"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/feedback", {"prompt": "Hi", "response": "?", "correction": "Yes.", "profile": "bob"}),
        ("/jobs", {"profile": "bob"}),
        ("/feedback/import?profile=bob", {"prompt": "Hi", "completion": "Yes."}),
        ("/adapters/rollback?profile=bob", {}),
        ("/adapters/v1/activate?profile=bob", {}),
        ("/v1/fine_tuning/jobs", {"model": "base", "suffix": "bob", "training_file": "file-1"}),
    ],
)
def test_nobody_writes_into_another_profile(people, path, body):
    alice, _, daemon = people
    before = state(daemon)
    got = alice.ask("POST", path, json=body)
    none = alice.ask(
        "POST", path.replace("bob", "nobody"), json={k: "nobody" if v == "bob" else v for k, v in body.items()}
    )
    assert (got.status_code, got.text.replace("'bob'", "'nobody'")) == (404, none.text)
    assert state(daemon) == before


def test_feedback_on_the_other_s_reply_is_refused_and_one_s_own_is_one_s_own(people):
    alice, bob, _ = people
    for theirs in (bob.ids["interaction_id"], "i-nothing"):
        answer = alice.ask("POST", "/feedback", json={"interaction_id": theirs, "rating": "up"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"there is no interaction {theirs!r}")
    said = {"interaction_id": alice.ids["interaction_id"], "rating": "up", "profile": None}
    assert alice.ask("POST", "/feedback", json=said).json()["profile"] == "alice"
    body = {"type": "rating", "data": {"rating": 1, "model_id": "bob"}, "meta": {"message_id": "2", "chat_id": "c"}}
    turns = [{"id": "1", "role": "user", "content": "Hi"}, {"id": "2", "role": "assistant", "content": "Ho"}]
    chat = {"snapshot": {"chat": {"messages": turns}}}
    assert alice.ask("POST", "/v1/feedback", json={**body, **chat}).json()["profile"] == "alice"


def test_ids_that_both_have_chosen_do_not_meet(people):
    alice, bob, daemon = people
    first, again = ({"prompt": "Hi", "response": "?", "correction": text} for text in ("One.", "Two."))
    answers = [
        person.ask("POST", "/feedback", json=body, headers={"idempotency-key": "mine"})
        for person, body in ((alice, first), (bob, again), (owner(alice), again), (alice, first), (alice, again))
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 200, 409]
    profiles = [answer.json().get("profile") for answer in answers[:4]]
    assert profiles == ["alice", "bob", "default", "alice"]
    listed = [person.ask("GET", "/conversations").json()["conversations"] for person in (alice, bob)]
    assert [{one["profile"] for one in own} for own in listed] == [{"alice"}, {"bob"}]
    everybody = owner(alice).ask("GET", "/conversations").json()["conversations"]
    assert [one["profile"] for one in everybody if one["id"] == CONVERSATION] == ["bob", "alice"]
    assert alice.ask("DELETE", f"/conversations/{CONVERSATION}").json()["deleted"] == 2
    assert daemon.db.interactions.count(conversation=CONVERSATION, profile="bob") == 2
    assert alice.ask("DELETE", f"/conversations/{CONVERSATION}").status_code == 404


def test_what_one_deletes_in_bulk_is_one_s_own(people):
    alice, bob, daemon = people
    before = state(daemon)
    assert alice.ask("DELETE", "/feedback").status_code == 422  # that all of it is one's own is no filter
    for query in ("before=2100-01-01T00:00:00Z", "source=given", f"id={bob.ids['feedback_id']}", "q=behind"):
        erasure = alice.ask("DELETE", f"/feedback?{query}").json()["erasure_id"]
        if erasure:
            assert alice.ask("GET", f"/erasures/{erasure}").json()["profiles"] == ["alice"]
            assert bob.ask("GET", f"/erasures/{erasure}").status_code == 404
    assert (daemon.db.feedback.count(profile="alice"), state(daemon)) == (0, before)


def test_a_job_of_the_other_s_keeps_one_from_starting_without_its_name(people):
    alice, bob, daemon = people
    job = daemon.db.jobs.add("bob", "manual")
    try:
        for path, body in (("/jobs", None), ("/v1/fine_tuning/jobs", {"model": "base", "training_file": "file-1"})):
            answer = alice.ask("POST", path, json=body)
            assert answer.status_code in (404, 409)
            assert job.id not in answer.text
        daemon.idle_monitor.work = job
        info = alice.ask("GET", "/info").json()
        assert (info["profile"], info["job"]) == ("alice", None)
        assert info["night"]["words"].startswith("adapting another profile")  # paused, perhaps
        assert bob.ask("GET", "/info").json()["night"]["words"].startswith("adapting bob")
    finally:
        daemon.idle_monitor.work = None
        daemon.db.jobs.update(job.id, status="cancelled")


def test_the_stream_of_state_tells_only_of_one_s_own(people):
    alice, bob, daemon = people
    with answering(Caller("alice")):
        event = events._state(daemon.seen_by("alice"), "alice", "")
    assert event.job.id == alice.ids["job_id"]
    assert bob.told_in(event.model_dump_json().encode()) == []
    assert alice.ask("GET", "/events?profile=bob").status_code == 404


def test_a_token_is_shown_once_listed_and_revoked_with_the_browsers_that_it_let_in(people):
    alice, _, daemon = people
    me, path = owner(alice), "/profiles/alice/tokens"
    extra = Person("alice", alice.http, made(alice.http, "alice"))
    known = me.ask("GET", path)
    assert extra.token not in known.text
    assert (
        extra.token.encode()
        not in daemon.db.path.read_bytes() + daemon.db.path.with_name("lars-agent.db-wal").read_bytes()
    )
    entered = me.http.post("/enter", data={"token": extra.token, "page": "/memory"}, follow_redirects=False)
    cookie = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
    assert extra.token not in cookie["cookie"]
    me.http.cookies.clear()
    assert me.http.get("/info", headers=cookie).json()["profile"] == "alice"
    assert me.http.get("/info", headers={**cookie, "sec-fetch-site": "same-site"}).status_code == 403
    assert me.http.get("/info", headers={**cookie, "authorization": f"Bearer {TOKEN}"}).json()["profile"] is None
    assert me.http.post("/session/links", headers=cookie).status_code == 403
    page = me.http.get("/preferences", headers=cookie).text
    assert 'data-profile="alice"' in page
    assert 'href="preferences"' not in page
    newest = known.json()["tokens"][-1]["id"]
    assert me.ask("DELETE", f"{path}/{newest}").json()["id"] == newest
    assert [extra.ask("GET", "/info").status_code, me.http.get("/info", headers=cookie).status_code] == [401, 401]
    assert me.ask("DELETE", f"/profiles/bob/tokens/{newest}").status_code == 404
    assert alice.ask("GET", "/info").status_code == 200


def test_without_a_token_of_the_daemon_s_own_nobody_is_told_that_a_profile_is_kept_apart(client):
    answer = client.post("/profiles/alice/tokens")
    assert answer.status_code == 409
    assert "server.token is not set" in answer.json()["error"]["message"]
