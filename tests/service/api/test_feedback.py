from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from service.api import import_rows as module
from service.db.records import NewFeedback
from tests.service.api.conftest import wait_until

LINES = "application/jsonl"


def give(client, **fields) -> dict:
    body = {"prompt": "Hi", "response": "Yo", **fields}
    response = client.post("/feedback", json=body)
    assert response.status_code == 201, response.text
    return response.json()


def test_feedback_on_a_reply(client):
    interaction_id = client.post("/generate", json={"inputs": "Hi"}).json()["interaction_id"]
    body = {"interaction_id": interaction_id, "rating": "down", "correction": "Hello!", "comment": "", "tags": ["a"]}
    response = client.post("/feedback", json=body)
    given = response.json()
    assert response.status_code == 201
    assert given == client.get(f"/feedback/{given['id']}").json()
    assert datetime.fromisoformat(given.pop("created")).tzinfo is not None
    assert given == {
        "id": given["id"],
        "profile": "default",
        "interaction_id": interaction_id,
        "messages": [{"role": "user", "content": "Hi"}],
        "response": "echo: Hi",
        "adapter_version": "base",
        "rating": -1.0,
        "correction": "Hello!",
        "comment": "",
        "tags": ["a"],
        "source": "given",
    }


@pytest.mark.parametrize(("rating", "stored"), [("up", 1), ("down", -1), (0.25, 0.25), (-1, -1), (1, 1), (0, 0)])
def test_rating_is_a_word_or_a_number(client, rating, stored):
    assert give(client, rating=rating)["rating"] == stored


def test_retry_with_the_same_key_stores_nothing_twice(client):
    body = {"prompt": "Hi", "response": "Yo", "rating": 1}
    send = lambda body: client.post("/feedback", json=body, headers={"Idempotency-Key": "k"})  # noqa: E731
    first, again = send(body), send({"rating": 1.0, "response": "Yo", "prompt": "Hi"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    conflict = send({**body, "rating": -1})
    assert conflict.status_code == 409
    assert conflict.json()["error"]["type"] == "conflict_error"
    assert first.json()["id"] in conflict.json()["error"]["message"]
    assert len(client.get("/feedback").json()["feedback"]) == 1


def test_list_is_newest_first_and_paged(client):
    ids = [give(client, rating=1, profile=("alice", "bob")[i % 2])["id"] for i in range(5)]
    page = client.get("/feedback?limit=3").json()
    assert [row["id"] for row in page["feedback"]] == ids[:1:-1]
    rest = client.get(f"/feedback?limit=3&after={page['next']}").json()
    assert ([row["id"] for row in rest["feedback"]], rest["next"]) == (ids[1::-1], None)
    assert [row["id"] for row in client.get("/feedback?profile=bob").json()["feedback"]] == [ids[3], ids[1]]


def test_deleted_feedback_is_gone(client):
    feedback_id = give(client, rating=1)["id"]
    answer = client.delete(f"/feedback/{feedback_id}").json()
    assert answer["deleted"] == 1
    assert client.get(f"/erasures/{answer['erasure_id']}").json()["feedback"] == [feedback_id]
    assert client.get(f"/feedback/{feedback_id}").status_code == 404
    assert client.delete(f"/feedback/{feedback_id}").status_code == 404


def test_bulk_delete_takes_what_matches_all_filters(client):
    kept = [give(client, rating=1, tags=["x"])["id"], give(client, rating=1, profile="bob")["id"]]
    give(client, rating=1, profile="bob", tags=["x", "y"])
    assert client.delete("/feedback?profile=bob&tag=x").json()["deleted"] == 1
    assert client.delete("/feedback?profile=bob&tag=x").json() == {"deleted": 0, "erasure_id": None}
    assert sorted(row["id"] for row in client.get("/feedback").json()["feedback"]) == sorted(kept)
    moment = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert client.delete(f"/feedback?before={quote(moment)}").json()["deleted"] == 2


def test_interactions_are_listed_read_and_deleted(client):
    ids = [client.post("/generate", json={"inputs": f"{i}"}).json()["interaction_id"] for i in range(3)]
    page = client.get("/interactions?limit=2").json()
    assert [row["id"] for row in page["interactions"]] == [ids[2], ids[1]]
    assert page["next"] == ids[1]
    assert client.get(f"/interactions/{ids[0]}").json()["response"] == "echo: 0"
    assert client.delete(f"/interactions/{ids[0]}").json()["deleted"] == 1
    assert client.get(f"/interactions/{ids[0]}").status_code == 404


CORRECTED = {"prompt": "A", "response": "bad", "correction": "good"}
PROMPT = [{"role": "user", "content": "A"}]
GOOD, BAD = [{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("messages", {"messages": PROMPT + GOOD}),
        ("prompt-completion", {"prompt": PROMPT, "completion": GOOD}),
        ("preference", {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD}),
        ("kto", {"prompt": PROMPT, "completion": BAD, "label": False}),
    ],
)
def test_export_is_trls_form_and_comes_back(client, form, row):
    give(client, **CORRECTED, rating=-0.5)
    give(client, comment="says nothing to learn")
    exported = client.get(f"/feedback/export?format={form}")
    assert exported.headers["content-type"].startswith(LINES)
    assert [json.loads(line) for line in exported.text.splitlines()] == [row]
    client.delete("/feedback?profile=default")
    response = client.post(f"/feedback/import?profile=bob&tag=trip", content=exported.content)  # noqa: F541
    assert (response.status_code, response.json()) == (201, {"imported": 1})
    assert client.get(f"/feedback/export?format={form}&profile=bob&tag=trip").content == exported.content


def test_import_takes_plain_text_and_passes_over_other_columns(client, daemon):
    lines = [
        {"prompt": "A", "completion": "good", "score": 3},
        {"prompt": "A", "chosen": "good", "rejected": "bad"},
        {"prompt": "A", "completion": "good", "label": True},
    ]
    content = "\n\n".join(json.dumps(line) for line in lines) + "\r\n"
    assert client.post("/feedback/import", content=content).json() == {"imported": 3}
    assert [example.response for example in daemon.db.feedback.examples("default")] == ["good"] * 3


@pytest.mark.parametrize(
    ("line", "param"),
    [
        (b"{", "line 2"),
        (b"[]", "line 2"),
        (b'{"prompt": "A"}', "line 2"),
        (b"\xff", "line 2"),
        (b'{"prompt": "A", "completion": ""}', "line 2.completion.0.content"),
        (b'{"prompt": "A", "completion": "\\ud800"}', "line 2.completion.0.content"),
        (b'{"prompt": "A", "completion": []}', "line 2.completion"),
        (b'{"prompt": "A", "chosen": "x"}', "line 2.rejected"),
        (b'{"prompt": "A", "completion": "x", "label": 7}', "line 2.label"),
        (b'{"messages": [{"role": "user", "content": "A"}]}', "line 2.messages"),
        (b'{"completion": "x"}', "line 2.prompt"),
        (b"9" * 5000, "line 2"),
        (b"[" * 100_000, "line 2"),
    ],
)
def test_import_with_one_bad_line_stores_nothing(client, daemon, line, param):
    good = b'{"prompt": "A", "completion": "B"}'
    response = client.post("/feedback/import", content=good + b"\n" + line + b"\n" + good)
    assert response.status_code == 422, response.text
    assert response.json()["error"]["param"] == param
    assert daemon.db.feedback.list() == []


def test_empty_import_is_refused(client):
    assert client.post("/feedback/import", content=b"\n").status_code == 422


def test_import_may_be_larger_than_other_bodies_but_not_endless(start, settings):
    server = settings.server.model_copy(update={"max_body_bytes": 100, "max_import_bytes": 10_000})
    client = start(settings.model_copy(update={"server": server}))
    line = b'{"prompt": "A", "completion": "B"}\n'
    assert client.post("/feedback/import", content=line * 100).json() == {"imported": 100}
    assert client.post("/feedback/import", content=line * 1000).status_code == 413
    assert client.post("/feedback/import", content=(line for _ in range(1000))).status_code == 413
    assert client.app.state.daemon.db.feedback.counts()["total"] == 100


def test_an_import_tells_how_far_it_is_and_others_go_on(client, daemon):
    may_go, new = threading.Event(), NewFeedback(messages=({"role": "user", "content": "Hi"},), response="Yo", rating=1)

    def batches():
        yield [new]
        may_go.wait(60)
        yield [new]

    (thread := threading.Thread(target=daemon.db.imports.store, args=(batches(), 2))).start()
    wait_until(lambda: client.get("/info").json()["importing"] == {"done": 1, "total": 2})
    assert client.post("/feedback", json={"prompt": "A", "response": "B", "rating": 1}).status_code == 201
    assert client.get("/feedback").json()["total"] == client.get("/info").json()["feedback"]["total"] == 1
    dry = client.post("/feedback/import?dry_run=true", content=b'{"prompt": "A", "completion": "C"}')
    assert dry.json() == {"imported": 0, "valid": 1, "refused": []}
    may_go.set()
    thread.join()
    assert client.get("/info").json()["importing"] is None
    assert client.get("/feedback").json()["total"] == 3


def test_a_dry_run_tells_no_more_refused_lines_than_anybody_reads(client):
    refused = client.post("/feedback/import?dry_run=true", content=b"x\n" * 5000).json()["refused"]
    assert [row["line"] for row in refused] == list(range(1, 1002))
    assert refused[-1]["message"].startswith("1,000 lines before it are refused")


def test_lines_of_several_batches_are_numbered_through_and_stored_whole(client, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    lines = [json.dumps({"prompt": f"Q{number}", "completion": "A" * 30}) for number in range(20)]
    assert client.post("/feedback/import", content="\n".join(lines)).json() == {"imported": 20}
    stored = [row["messages"][0]["content"] for row in client.get("/feedback").json()["feedback"]]
    assert stored == [f"Q{number}" for number in reversed(range(20))]
    answer = client.post("/feedback/import", content="\n".join([*lines, "x"]))
    assert answer.json()["error"]["param"] == "line 21"
    assert client.get("/feedback").json()["total"] == 20
