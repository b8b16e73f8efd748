"""What a person states in a conversation is kept as a correction is, listed, recalled and deleted."""

from __future__ import annotations

import pytest

from service.settings.load import Settings
from service.settings.sections import Learning

GOAT, ANSWER = "By the way, my goat is called Pip.", "Your goat is called Pip."


def say(client, *texts: str, headers: dict[str, str] | None = None) -> str:
    """Send a conversation in which the person speaks first and last; return the reply's interaction."""
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return client.post("/generate", json={"inputs": turns}, headers=headers).json()["interaction_id"]


def stated(client) -> list[dict]:
    return client.get("/feedback?source=stated").json()["feedback"]


def test_a_stated_fact_is_kept_and_recalled_at_once(client, daemon):
    interaction_id = say(client, GOAT)
    (row,) = stated(client)
    assert (row["messages"], row["correction"]) == ([{"role": "user", "content": "What is my goat called?"}], ANSWER)
    assert (row["interaction_id"], row["response"], row["source"]) == (interaction_id, "", "stated")
    assert client.get("/feedback?source=given").json()["feedback"] == []
    (found,) = daemon.db.recall.search("default", "Which name does my goat go by?", 3).corrections
    assert (found.feedback_id, found.answer) == (row["id"], ANSWER)
    assert client.get("/info").json()["feedback"] == {
        **{"total": 1, "corrections": 0, "liked": 0, "disliked": 0},
        "stated": 1,
    }
    assert client.get("/feedback/export?format=preference").text == ""
    assert ANSWER in client.get("/feedback/export").text


def test_a_remark_corrects_the_reply_before_it(client):
    say(client, "Hello", "Hi", "What is my tutor called?", "Your tutor is called Bo.", "No, she's called Ines.")
    (row,) = stated(client)
    assert [turn["content"] for turn in row["messages"]] == ["Hello", "Hi", "What is my tutor called?"]
    assert (row["response"], row["correction"]) == ("Your tutor is called Bo.", "Your tutor is called Ines.")


def test_what_is_said_again_is_kept_once_and_the_newest_counts(client, daemon):
    for name in ("Pip", "Pip", "Bo", "Pip"):
        say(client, f"My goat is called {name}.")
    assert [row["correction"][-4:-1].strip() for row in stated(client)] == ["Pip", "Bo", "Pip"]
    (found,) = daemon.db.recall.search("default", "What is my goat called?", 3).corrections
    assert found.answer == ANSWER


def test_nothing_is_kept_of_what_is_not_to_be_learned(client):
    say(client, GOAT, headers={"LARS-Learn": "off"})
    say(client, "My goat is called Pip and my card is 4111 1111 1111 1111.")
    say(client, "What is my wifi password?", "I do not know.", "No, it's hunter2blue.")
    say(client, "My PIN is 4821.", "Noted.", "What is my goat called?", "Bo.", "No, she's called Pip.")
    client.post("/v1/completions", json={"prompt": GOAT, "max_tokens": 4})
    assert stated(client) == []


@pytest.mark.parametrize(
    ("learning", "count"), [({"statements": False}, 0), ({"profiles": {"default": False}}, 0), ({}, 1)]
)
def test_it_can_be_switched_off(client, daemon, learning, count):
    daemon.use(Settings(**{**dict(daemon.settings), "learning": Learning(**learning)}))
    say(client, GOAT)
    assert len(stated(client)) == count


def test_deleting_it_deletes_where_it_was_said_and_the_rest_of_that_conversation(client):
    said = [say(client, GOAT), say(client, GOAT, "Nice.", "Tell me a joke."), say(client, "Tell me a joke.")]
    (row,) = stated(client)
    assert client.delete("/feedback?source=stated").json()["deleted"] == 1
    left = {one["id"] for one in client.get("/interactions").json()["interactions"]}
    assert left == {said[2]}
    assert client.get(f"/feedback/{row['id']}").status_code == 404


def test_deleting_the_reply_deletes_what_was_stated_before_it(client):
    client.delete(f"/interactions/{say(client, GOAT)}")
    assert stated(client) == []


def test_a_comment_on_a_disliked_reply_is_learned_where_it_says_what_is_right(client, daemon):
    asked = {"prompt": "What is my goat called?", "response": "Bo."}
    for rating, comment in (("down", "She is called Pip"), ("down", "Too long"), ("up", "She is called Max")):
        client.post("/feedback", json={**asked, "rating": rating, "comment": comment})
    assert [example.response for example in daemon.db.feedback.examples("default")] == [ANSWER, "Bo."]
    assert [row["source"] for row in client.get("/feedback").json()["feedback"]] == ["given"] * 3


def test_it_is_no_rating_of_the_version_that_replied(client, daemon):
    say(client, "What is my goat called?", "Bo.", "No, she is called Pip.")
    assert daemon.db.feedback.ratings("default") == {}
