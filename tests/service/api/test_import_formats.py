"""Formats of other programs, read from a file of rows; and that nothing is stored twice."""

from __future__ import annotations

import io
import json

import pytest

from service.api import json_list
from service.api.import_rows import read_batches
from service.db import Database
from service.db.known import KnownFeedback
from service.db.records import NewFeedback
from tests.service.db.test_imports import ROW

TURNS = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?")]


def messages(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def news(*found: object) -> list[NewFeedback]:
    return [new for batch in read_batches(io.BytesIO(b"\n".join(found)), "default") for new in batch.news]


def read(*rows: object) -> list[NewFeedback]:
    """The feedback in the rows, which is the same whether they are lines or a list."""
    lines = [json.dumps(row).encode() for row in rows]
    found = news(*lines)
    assert news(json.dumps(rows, indent=1).encode()) == found
    return found


def refused(content: bytes) -> dict[int, str]:
    return {
        number: str(error)
        for batch in read_batches(io.BytesIO(content), "default")
        for number, error in batch.refused.items()
    }


@pytest.mark.parametrize(
    ("row", "prompt", "response", "correction"),
    [
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], "id": "x_0"},
            [("user", "Hi")],
            "Yo",
            "Yo",
        ),
        (
            {
                "system": "Be brief.",
                "conversations": [
                    {"from": "user", "value": "Hi"},
                    {"from": "chatgpt", "value": "Yo", "weight": None},
                    {"from": "human", "value": "Bye"},
                    {"from": "assistant", "value": "See you."},
                    {"from": "human", "value": "Nobody has answered this."},
                ],
            },
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")],
            "See you.",
            "See you.",
        ),
        ({"conversations": messages(*TURNS, ("assistant", "Lars."))}, TURNS, "Lars.", "Lars."),
        ({"instruction": "Say hi.", "input": "", "output": "Hi."}, [("user", "Say hi.")], "Hi.", "Hi."),
        (
            {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction ..."},
            [("user", "Add.\n1, 2")],
            "3",
            "3",
        ),
        (
            {"instruction": "And?", "output": "B", "system": "Be brief.", "history": [["Q", "A"]]},
            [("system", "Be brief."), ("user", "Q"), ("assistant", "A"), ("user", "And?")],
            "B",
            "B",
        ),
        (
            {
                "input": {"messages": messages(*TURNS), "tools": [], "parallel_tool_calls": True},
                "preferred_output": messages(("assistant", "Lars.")),
                "non_preferred_output": messages(("assistant", "No.")),
            },
            TURNS,
            "No.",
            "Lars.",
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be brief.", "name": "me"},
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}], "tool_calls": None},
                    {"role": "assistant", "content": "Never.", "weight": 0, "refusal": None},
                    {"role": "user", "content": "Hi again"},
                    {"role": "assistant", "content": "Hello!", "weight": 1, "tool_calls": [], "audio": {}},
                ]
            },
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Never."), ("user", "Hi again")],
            "Hello!",
            "Hello!",
        ),
    ],
)
def test_a_row_of_another_program_is_read(row, prompt, response, correction):
    (new,) = read(row)
    assert (list(new.messages), new.response, new.correction) == (messages(*prompt), response, correction)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": [{"from": "gpt", "value": "Yo"}]}, "conversations: must end with a message of the user"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "conversations: must end"),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "tool", "value": "x"}]},
            "conversations: must end",
        ),
        ({"conversations": "x"}, "conversations"),
        ({"instruction": "Say hi.", "output": " "}, "output"),
        ({"instruction": "Say hi."}, "output: is missing"),
        ({"preferred_output": [], "non_preferred_output": [], "input": {"messages": []}}, "input.messages"),
        ({"messages": [*messages(("user", "Hi")), {"role": "assistant", "content": "x", "weight": 0}]}, "weight"),
        ({"messages": [*messages(("user", "Hi")), {"role": "assistant", "content": "x", "tool_calls": [1]}]}, "tool"),
        ({"x": 1}, "known format"),
        (7, "known format"),
    ],
)
def test_a_row_that_teaches_nothing_is_refused_with_its_reason(row, said):
    line = json.dumps(row).encode()
    assert said in refused(line)[1]
    assert refused(line)[1].startswith("line 1")
    told = refused(b" [ " + line + b", 1]")
    assert (told[1][:6], said in told[1], told[2][:6]) == ("item 1", True, "item 2")


@pytest.mark.parametrize("size", [1, 7, 64, 2**16])
def test_a_list_is_read_item_by_item_however_it_is_cut(monkeypatch, size):
    monkeypatch.setattr(json_list, "CHUNK_BYTES", size)
    rows = [{"a": 'ü€😀\\"]}, [' * n, "b": [n, {"c": -1.5e3}, True, None]} for n in range(40)]
    for text in (json.dumps(rows), "\ufeff" + json.dumps(rows, indent=3, ensure_ascii=False) + "\n "):
        assert [item for item, _ in json_list.items(io.BytesIO(text.encode()))] == rows


@pytest.mark.parametrize(
    "broken", ["[", '[{"a": 1}', '[{"a": 1},]', '[{"a" 1}]', '["\\x"]', "[1 2]", "[1] 2", "[[" * 9999]
)
def test_a_list_that_is_broken_is_refused(broken):
    assert any("is not JSON" in told for told in refused(broken.encode()).values())


def test_a_broken_item_is_not_searched_for_in_the_rest_of_the_file(monkeypatch):
    file = io.BytesIO(b'[{"a" 1}, ' + b" " * 10_000_000)
    with pytest.raises(ValueError, match="delimiter"):
        list(json_list.items(file))
    assert file.tell() <= 2 * json_list.CHUNK_BYTES


GIVEN = [
    {"prompt": "A", "response": "bad", "correction": "good", "rating": -0.5},
    {"prompt": "A", "response": "fine", "rating": "up"},
    {"prompt": "B", "response": "no", "rating": "down", "comment": "It should be yes."},
    {"prompt": "C", "response": "x", "tags": ["only"]},
]


def test_an_export_that_is_imported_again_doubles_nothing(client):
    for body in GIVEN:
        assert client.post("/feedback", json=body).status_code == 201
    for form in ("messages", "prompt-completion", "preference", "kto"):
        exported = client.get(f"/feedback/export?format={form}").content
        count = len(exported.splitlines())
        dry = client.post("/feedback/import?dry_run=true", content=exported).json()
        assert dry == {"imported": 0, "valid": count, "already_there": count, "refused": []}
        assert client.post("/feedback/import", content=exported).json() == {"imported": 0, "already_there": count}
        more = exported + b'{"prompt": "New", "completion": "' + form.encode() + b'"}'
        assert client.post("/feedback/import", content=more).json() == {"imported": 1, "already_there": count}
        exported = client.get(f"/feedback/export?format={form}").content
        first = client.post("/feedback/import?profile=bob", content=exported).json()
        assert first["imported"] + first.get("already_there", 0) == len(exported.splitlines())
        again = client.post("/feedback/import?profile=bob", content=exported).json()
        assert again == {"imported": 0, "already_there": len(exported.splitlines())}
    assert client.get("/feedback?profile=default").json()["total"] == len(GIVEN) + 4


def test_the_same_words_about_something_else_are_new(db_known):
    known = db_known(ROW)
    assert not known.take(ROW)
    others = [
        {"messages": ({"role": "user", "content": "Where?"},)},
        {"response": "Elsewhere."},
        {"correction": "There."},
    ]
    for other in others:
        assert known.take(NewFeedback(**{**vars(ROW), **other}))


@pytest.fixture
def db_known(tmp_path):
    """Gives a function that returns what is known of a profile that has this feedback."""
    db = Database(tmp_path / "known.db")

    def known(new: NewFeedback) -> KnownFeedback:
        db.feedback.add(new)
        return KnownFeedback(db.feedback, "default")

    yield known
    db.close()
