"""What a person sees and changes of their own data: profiles, conversations, search, edits, and effects beforehand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store.make import make_candidate, make_draft

ASKED = {"prompt": "What is my goat called?", "response": "Bo."}


def give(client, correction: str = "Your goat is called Pip.", **values) -> str:
    return client.post("/feedback", json={**ASKED, "correction": correction, **values}).json()["id"]


def say(client, text: str, conversation: str | None = None, **headers: str) -> str:
    headers |= {"LARS-Conversation": conversation} if conversation else {}
    return client.post("/generate", json={"inputs": text}, headers=headers).json()["interaction_id"]


def test_profiles_are_listed_with_what_is_their_own(client, daemon, tmp_path):
    assert [one["name"] for one in client.get("/profiles").json()["profiles"]] == ["default"]
    give(client, profile="ada")
    daemon.store.publish("bo", make_candidate(tmp_path / "c"), make_draft())
    say(client, "Hi")
    assert client.get("/profiles").json()["profiles"] == [
        {"name": "ada", "feedback": 1, "interactions": 0, "versions": 0, "serving": "base"},
        {"name": "bo", "feedback": 0, "interactions": 0, "versions": 1, "serving": "base"},
        {"name": "default", "feedback": 0, "interactions": 1, "versions": 0, "serving": "base"},
    ]


@pytest.mark.parametrize(
    ("words", "count"),
    [("goat", 2), ("GOAT pip", 1), ("ærø", 1), ("ÆRØ", 1), ("100%", 1), ("_", 0), ("bo", 2), ("zebra", 0)],
)
def test_feedback_is_searched_in_all_its_texts(client, words, count):
    give(client)
    give(client, "Your goat lives on Ærø.", comment="I am 100% sure")
    page = client.get("/feedback", params={"q": words, "limit": 1}).json()
    assert (page["total"], len(page["feedback"])) == (count, min(count, 1))


def test_interactions_are_searched_and_counted(client):
    for text in ("Ærø is an island", "My goat eats", "Nothing"):
        say(client, text)
    page = client.get("/interactions", params={"q": "ærø"}).json()
    assert [one["messages"][-1]["content"] for one in page["interactions"]] == ["Ærø is an island"]
    page = client.get("/interactions?limit=2").json()
    assert (page["total"], len(page["interactions"])) == (3, 2)


def test_a_conversation_groups_what_is_said_under_its_id(client):
    first = say(client, "Hello there", "c-1")
    say(client, "Another matter", "c-2")
    say(client, "And goats?", "c-1")
    say(client, "No conversation")
    found = client.get("/conversations").json()["conversations"]
    assert [(one["id"], one["title"], one["interactions"]) for one in found] == [
        ("c-1", "Hello there", 2),
        ("c-2", "Another matter", 1),
    ]
    assert found[0]["created"] < found[1]["created"] < found[0]["updated"]
    assert client.get(f"/interactions/{first}").json()["conversation"] == "c-1"
    assert client.get("/interactions?conversation=c-1").json()["total"] == 2
    assert [one["id"] for one in client.get("/conversations?q=GOATS").json()["conversations"]] == ["c-1"]
    assert client.get("/conversations?q=goats").json()["conversations"][0]["interactions"] == 2
    page = client.get("/conversations?limit=1").json()
    assert page["next"] == "c-1"
    assert [one["id"] for one in client.get("/conversations?limit=1&after=c-1").json()["conversations"]] == ["c-2"]
    assert client.get("/conversations?profile=ada").json()["conversations"] == []


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/api/chat", "/api/generate"])
def test_every_dialect_takes_the_conversation(client, path):
    turns = [{"role": "user", "content": "Hi"}]
    body = {"inputs": "Hi"} if path == "/generate" else {"messages": turns, "stream": False}
    body = {"prompt": "Hi", "stream": False} if path == "/api/generate" else body
    assert client.post(path, json=body, headers={"LARS-Conversation": "c-1"}).status_code == 200
    assert client.get("/interactions?conversation=c-1").json()["total"] == 1
    assert client.post(path, json=body, headers={"LARS-Conversation": "no spaces"}).status_code == 422


def test_a_deleted_conversation_takes_the_feedback_on_it_along(client):
    feedback_id = client.post("/feedback", json={"interaction_id": say(client, "Hi", "c-1"), "rating": "up"}).json()[
        "id"
    ]
    kept = say(client, "Hi", "c-2")
    assert client.delete("/conversations/c-1").json()["deleted"] == 1
    assert client.get(f"/feedback/{feedback_id}").status_code == 404
    assert [one["id"] for one in client.get("/interactions").json()["interactions"]] == [kept]
    assert client.delete("/conversations/c-1").status_code == 404


def test_an_edit_counts_at_once_and_as_the_newest(client, daemon):
    first, second = give(client), give(client, "Your goat is called Max.")
    answer = client.patch(f"/feedback/{first}", json={"correction": "Your goat is called Pippa.", "tags": ["goat"]})
    assert (answer.status_code, answer.json()["correction"], answer.json()["tags"]) == (
        200,
        "Your goat is called Pippa.",
        ["goat"],
    )
    assert client.get(f"/feedback/{first}").json() == answer.json()
    assert [one["id"] for one in client.get("/feedback").json()["feedback"]] == [first, second]
    (found,) = daemon.db.recall.search("default", "What is my goat called?", 3).corrections
    assert found.answer == "Your goat is called Pippa."
    assert daemon.db.feedback.examples("default")[-1].response == "Your goat is called Pippa."


@pytest.mark.parametrize(
    ("changes", "param", "status"),
    [
        ({}, "rating", 422),
        ({"correction": None}, "correction", 409),
        ({"correction": " "}, "correction", 422),
        ({"rating": 2}, "rating", 422),
    ],
)
def test_an_edit_that_leaves_nothing_or_is_wrong_changes_nothing(client, changes, param, status):
    feedback_id = give(client)
    before = client.get(f"/feedback/{feedback_id}").json()
    answer = client.patch(f"/feedback/{feedback_id}", json=changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert client.get(f"/feedback/{feedback_id}").json() == before
    assert client.patch("/feedback/f-none", json={"rating": "up"}).status_code == 404


def test_effects_of_a_deletion_are_what_it_then_does(client, daemon, tmp_path):
    replied = say(client, "What is my goat called?")
    feedback_id = client.post("/feedback", json={"interaction_id": replied, "correction": "Pip!"}).json()["id"]
    other = give(client)
    for number, learned in enumerate(([other], [other, feedback_id], [other, feedback_id])):
        draft = replace(make_draft(parent=number or None), example_ids=tuple(learned))
        version = daemon.store.publish("default", make_candidate(tmp_path / str(number)), draft).version
        daemon.switch.activate("default", version)
    effects = client.get(f"/feedback/{feedback_id}/effects").json()
    assert effects == {"profile": "default", "versions": ["v2", "v3"], "serving": "v1", "interactions": 1}
    elsewhere = give(client, profile="work")
    ids = f"id={feedback_id}&id={other}&id={elsewhere}&id=f-none"
    assert client.get(f"/feedback/effects?{ids}").json() == {
        "feedback": 3,
        "interactions": 1,
        "profiles": [
            {"profile": "default", "versions": ["v1", "v2", "v3"], "serving": "base"},
            {"profile": "work", "versions": [], "serving": "base"},
        ],
    }
    client.delete(f"/feedback/{feedback_id}")
    assert client.get("/info").json()["serving"]["default"] == effects["serving"]
    assert [one["version"] for one in client.get("/adapters").json()["adapters"]] == ["v1"]
    assert client.get("/interactions").json()["total"] == 0
    assert client.get(f"/feedback/{feedback_id}/effects").status_code == 404


def test_several_pieces_of_feedback_are_deleted_at_once_by_their_ids_or_by_what_they_mention(client, daemon):
    ids = [give(client, prompt=f"What is thing {number}?") for number in range(4)]
    boat = give(client, prompt="Where is my boat?")
    answer = client.delete(f"/feedback?id={ids[0]}&id={ids[2]}&id=f-none").json()
    assert answer["deleted"] == 2
    assert {*client.get(f"/erasures/{answer['erasure_id']}").json()["feedback"]} == {ids[0], ids[2]}
    assert client.delete("/feedback?q=thing").json()["deleted"] == 2
    assert [one["id"] for one in client.get("/feedback").json()["feedback"]] == [boat]
    assert [one["id"] for one in client.get(f"/feedback?id={boat}&id={ids[0]}").json()["feedback"]] == [boat]
    for bad in ("", "?id=", "?id=" + "&id=".join(["f"] * 201)):
        assert client.delete(f"/feedback{bad}").status_code == 422
        assert client.get(f"/feedback/effects{bad}").status_code == 422


def test_a_dry_run_of_an_import_names_the_refused_lines_and_stores_nothing(client):
    lines = b'{"prompt": "A", "completion": "B"}\n\nnot JSON\n{"prompt": "A"}\n{"prompt": "A", "completion": ""}\n'
    answer = client.post("/feedback/import?dry_run=true", content=lines).json()
    assert (answer["imported"], answer["valid"], [one["line"] for one in answer["refused"]]) == (0, 1, [3, 4, 5])
    assert all(f"line {one['line']}" in one["message"] for one in answer["refused"])
    assert client.get("/feedback").json()["total"] == 0
    assert client.post("/feedback/import", content=lines).status_code == 422
    assert client.get("/feedback").json()["total"] == 0


def test_other_words_for_a_question_are_told(client):
    asked = "What is my goat called?"
    row = client.post("/feedback", json={"prompt": asked, "response": "?", "correction": "Pip."}).json()
    found = client.get(f"/feedback/{row['id']}/wordings").json()["wordings"]
    assert len(found) > 2
    assert asked not in found
    assert all("goat" in text for text in found)
    assert client.get("/feedback/f-none/wordings").status_code == 404
