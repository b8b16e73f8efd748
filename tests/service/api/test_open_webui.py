"""Open WebUI's feedback as it is sent and as it is exported: shapes of its public code (feedbacks.py, Chat.svelte)."""

from __future__ import annotations

import copy
import io
import json

import pytest

from service.api.import_rows import read_batches
from service.db.records import NewFeedback

THOUGHT = '<details type="reasoning" done="true" duration="3">\n<summary>Thought</summary>\n> Hm.\n</details>\n'
MESSAGES = {
    "u1": {"id": "u1", "parentId": None, "childrenIds": ["a1", "b1"], "role": "user", "content": "Hi", "models": ["m"]},
    "b1": {"id": "b1", "parentId": "u1", "childrenIds": [], "role": "assistant", "content": "Another.", "model": "m"},
    "a1": {"id": "a1", "parentId": "u1", "childrenIds": ["u2"], "role": "assistant", "content": THOUGHT + "Hello!"},
    "u2": {"id": "u2", "parentId": "a1", "childrenIds": ["a2"], "role": "user", "content": "Who are you?"},
    "a2": {"id": "a2", "parentId": "u2", "childrenIds": [], "role": "assistant", "content": THOUGHT + "Nobody."},
}
CHAT = {
    "id": "chat-1",
    "user_id": "me",
    "title": "New Chat",
    "chat": {
        "title": "New Chat",
        "models": ["m"],
        "params": {"system": "Be brief."},
        "history": {"messages": MESSAGES, "currentId": "a2"},
        "messages": list(MESSAGES.values()),
        "files": [],
    },
    "share_id": None,
    "archived": False,
}
ITEM = {
    "type": "rating",
    "data": {
        "rating": -1,
        "model_id": "default",
        "sibling_model_ids": None,
        "reason": "not_factually_correct",
        "comment": "It should be Lars.",
        "tags": ["identity"],
        "details": {"rating": 3},
    },
    "meta": {"arena": False, "model_id": "default", "message_id": "a2", "message_index": 4, "chat_id": "chat-1"},
    "snapshot": {"chat": CHAT},
}
EXPORTED = {"id": "f6c1", "user_id": "me", "version": 0, **ITEM, "created_at": 1700000000, "updated_at": 1700000001}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Who are you?"},
]


def changed(item: dict, path: str, value: object) -> dict:
    """A copy of the item with another value at the path."""
    *folders, name = path.split("/")
    found = whole = copy.deepcopy(item)
    for folder in folders:
        found = found[folder]
    found[name] = value
    return whole


def read(*rows: dict) -> list[NewFeedback]:
    file = io.BytesIO(json.dumps(rows).encode())
    batches = list(read_batches(file, "default"))
    assert not any(batch.refused for batch in batches)
    return [new for batch in batches for new in batch.news]


def test_feedback_is_stored_with_its_conversation_and_changed_when_it_comes_again(client):
    added = client.post("/v1/feedback", json=ITEM)
    assert added.status_code == 201, added.text
    row = added.json()
    assert (row["messages"], row["response"], row["rating"]) == (TURNS, "Nobody.", -1)
    assert (row["comment"], row["tags"]) == ("It should be Lars.", ["identity", "not_factually_correct"])
    again = client.post("/v1/feedback", json=changed(ITEM, "data", {"rating": "1", "model_id": "default"}))
    assert (again.status_code, again.json()["id"], again.json()["rating"]) == (200, row["id"], 1)
    assert (again.json()["comment"], again.json()["tags"]) == (None, [])
    bobs = client.post("/v1/feedback?profile=bob", json=ITEM).json()
    assert (bobs["profile"], client.get("/feedback").json()["total"]) == ("bob", 2)
    other = changed(changed(ITEM, "meta/message_id", "a1"), "data/model_id", "bob:latest")
    assert client.post("/v1/feedback", json=other).json()["profile"] == "bob"


def test_feedback_on_a_reply_of_this_daemon_is_on_the_interaction(client, daemon):
    reply = client.post("/generate", json={"inputs": "Where is it?"}).json()
    messages = {
        "u": {"id": "u", "parentId": None, "role": "user", "content": "Where is it?"},
        "a": {"id": "a", "parentId": "u", "role": "assistant", "content": reply["generated_text"]},
    }
    item = changed(ITEM, "snapshot/chat", {"history": {"messages": messages}})
    row = client.post("/v1/feedback", json=changed(item, "meta", {"message_id": "a", "chat_id": "c"})).json()
    assert (row["interaction_id"], row["adapter_version"]) == (reply["interaction_id"], "base")
    assert row["messages"] == [{"role": "user", "content": "Where is it?"}]


def test_an_export_is_imported_once_whether_or_not_it_was_sent_before(client):
    client.post("/v1/feedback", json=ITEM)
    second = changed(changed(EXPORTED, "meta/message_id", "a1"), "data", {"rating": 1, "comment": ""})
    export = json.dumps([EXPORTED, second])
    assert client.post("/feedback/import", content=export).json() == {"imported": 1, "already_there": 1}
    assert client.post("/feedback/import", content=export).json() == {"imported": 0, "already_there": 2}
    twice = json.dumps([EXPORTED, EXPORTED, second])
    assert client.post("/feedback/import?profile=bob", content=twice).json() == {"imported": 2, "already_there": 1}
    assert client.get("/feedback").json()["total"] == 4


def test_an_edited_reply_is_a_correction():
    edited = changed(EXPORTED, "snapshot/chat/chat/history/messages/a2", {**MESSAGES["a2"], "originalContent": "X"})
    (new,) = read(edited)
    assert (new.response, new.correction, new.rating) == ("X", "Nobody.", -1)
    (new,) = read(changed(edited, "data", {"rating": 1}))  # what is liked is the edited reply
    assert (new.correction, new.rating) == ("Nobody.", None)


def test_a_chat_teaches_by_its_rated_and_edited_replies():
    rated = changed(
        CHAT, "chat/history/messages/a1", {**MESSAGES["a1"], "annotation": {"rating": 1, "reason": "Other"}}
    )
    both = changed(rated, "chat/history/messages/a2", {**MESSAGES["a2"], "originalContent": "X"})
    liked, corrected = read(both)
    assert (liked.response, liked.rating, liked.tags) == ("Hello!", 1, ("Other",))
    assert (corrected.response, corrected.correction, list(corrected.messages)) == ("X", "Nobody.", TURNS)
    assert read(CHAT, both) == [liked, corrected]
    listed = changed(both, "chat/history", {})
    listed["chat"]["messages"] = list(both["chat"]["history"]["messages"].values())
    assert read(listed) == [liked, corrected]


def test_a_chat_without_ratings_says_so(resident):
    answer = resident.post("/feedback/import", content=json.dumps([CHAT]))
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "body")
    assert "rated" in answer.json()["error"]["message"]


LOOP = {"a2": {**MESSAGES["a2"], "parentId": "u2"}, "u2": {**MESSAGES["u2"], "parentId": "a2"}}


@pytest.mark.parametrize(
    ("path", "value", "param"),
    [
        ("type", "other", "type"),
        ("data/rating", 10, "data.rating"),
        ("data/rating", "good", "data.rating"),
        ("data/rating", True, "data.rating"),
        ("data", {"model_id": "default"}, "data.rating"),
        ("data/comment", "a\0b", "data.comment"),
        ("meta/message_id", "none", "snapshot"),
        ("meta/message_id", "u2", "snapshot"),
        ("meta", None, "meta"),
        ("snapshot", {}, "snapshot"),
        ("snapshot/chat", {"chat": [1]}, "snapshot"),
        ("snapshot/chat/chat/history", {"messages": {"a2": 7}}, "snapshot"),
        ("snapshot/chat/chat/history/messages", {"a2": MESSAGES["a2"]}, "snapshot"),
        ("snapshot/chat/chat/history/messages/a2", {**MESSAGES["a2"], "content": ["x"]}, "snapshot"),
        ("snapshot/chat/chat/history/messages/u2", {**MESSAGES["u2"], "content": "\ud800"}, "chat"),
    ],
)
def test_feedback_without_its_reply_is_refused(resident, path, value, param):
    answer = resident.post("/v1/feedback", content=json.dumps(changed(ITEM, path, value)), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text


JSON = {"content-type": "application/json"}


def test_a_tree_that_goes_round_in_circles_ends():
    (new,) = read(changed(EXPORTED, "snapshot/chat/chat/history/messages", LOOP))
    assert [turn["content"] for turn in new.messages] == ["Be brief.", "Who are you?"]
