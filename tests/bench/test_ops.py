"""Damage to files, the rows of the ops bench, and its crowd and readers on real files and sockets."""

from __future__ import annotations

import json
import random
import socket
import tomllib
from contextlib import ExitStack

import pytest

from bench.ops.crowd import KINDS, Crowd
from bench.ops.damage import TOML_VALUES, VALUES, damaged
from bench.ops.files import changes, digests
from bench.ops.parts import ops_rows
from bench.ops.soak import Memory
from lars_agent.ops.safetensors_io import tensor_file
from tests.service.house import until

TEXTS = {
    "config.json": json.dumps({"rank": 4, "names": ["a", "b"], "inner": {"scale": 1.5}}).encode(),
    "train.jsonl": b'{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 2}\n',
    "config.toml": b'[server]\nport = 80\nhost = "x"\n\n[lars]\nrank = 4\n',
    "lars-agent.db": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_same_seed_damages_alike_and_always(name):
    made = [damaged(name, TEXTS[name], random.Random(seed)) for seed in range(60)]
    assert [damaged(name, TEXTS[name], random.Random(seed)) for seed in range(60)] == made
    assert all(content != TEXTS[name] for content, _ in made)
    assert len({content for content, _ in made}) > 30


def test_damage_to_a_header_leaves_its_length_right_now_and_then():
    import torch

    content = b"".join(bytes(part) for part in tensor_file({"a": torch.zeros(4), "b": torch.ones(2, 2)}))
    headers = 0
    for seed in range(60):
        made, what = damaged("x.safetensors", content, random.Random(seed))
        if what.startswith("header: "):
            headers += 1
            assert made[8 : 8 + int.from_bytes(made[:8], "little")].startswith(b"{")
    assert headers > 10


def test_every_value_stands_in_its_format_for_a_good_one():
    for text in TOML_VALUES.values():
        if "[[" not in text and "u0000" not in text:
            tomllib.loads(f"x = {text}")
    for name, text in VALUES.items():
        if name not in ("deep lists", "a huge integer"):
            json.loads(text)


def test_a_file_that_a_reader_changes_is_named(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    before = digests(tmp_path)
    (tmp_path / "a").write_text("other")
    (tmp_path / "b").unlink()
    (tmp_path / "new").write_text("new")
    assert changes(before, tmp_path) == ["a", "b"]


def test_the_crowd_keeps_all_its_connections_and_comes_back_where_one_is_closed():
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        server.settimeout(60)
        crowd = Crowd(server.getsockname()[1], len(KINDS))
        stack.enter_context(crowd())
        held = [stack.enter_context(server.accept()[0]) for _ in KINDS]
        for one in held:
            one.shutdown(socket.SHUT_RDWR)
        for _ in KINDS:
            stack.enter_context(server.accept()[0])
        until(lambda: crowd.opened == dict.fromkeys(KINDS, 2), "each has come back")


def test_growth_is_between_the_medians_of_two_windows():
    memory = Memory(1)
    memory.samples = {
        "daemon": [(float(t), int(1e6 * (100 + (t > 90)))) for t in range(100)],
        "engine": [(float(t), int(1e6 * (500 + t))) for t in range(100)],
    }
    memory.workers = {pid: (float(10 * pid), int(3e8)) for pid in range(10)}
    grown = memory.growth_mb(warm=10, end=100, window_s=10)
    assert grown == {"daemon": 1.0, "engine": pytest.approx(80, abs=1), "worker": 0}


def test_each_part_makes_its_rows_and_names_its_problems():
    crowd = {"connections": 2000, "seconds": 60.0, "opened": {"silent": 5}, "answered": 9}
    crowd |= {"unanswered": ["/feedback: reset"], "log_bytes": 10, "slowest_s": 0.5}
    cases = {"cases": {"authorised": 3, "unauthorised": 2}, "server_errors": {"boom: GET /x": 2}}
    cases |= {"undocumented": {}, "unanswered": {}}
    files = {"files": 4, "kinds": {"job": 4}, "ends": {"refused": 3, "crash": 1}, "problems": ["job/x: crash"]}
    soak = {"minutes": 1, "a_second": 20.0, "answered": {"generate": 4}, "jobs": {"succeeded": 2}, "errors": []}
    soak |= {"growth_mb": {"daemon": 2.0, "engine": -1.0}, "files_left": {"daemon": 1, "engine": -1}}
    people = {"leaks": ["reply: drawn"], "searched": 9, "places": 3, "own": 2, "asked": 4, "jobs": ["succeeded"] * 2}
    ssh = {"same": True, "there": {"plan": {}}, "cuts": {"while it is judged": ["other bytes"], "before": []}}
    parts = {"idle_connections": crowd, "schemathesis_cases": cases, "fuzz_files": files, "soak": soak}
    parts |= {"two_people": people, "ssh_runner": ssh}
    rows = {row["name"]: row for row in ops_rows(parts)}
    values = {name: row["value"] for name, row in rows.items() if row["goal"] is not None}
    assert values == {
        "idle_connections": 2000,
        "idle_connections_unanswered": 1,
        "idle_connections_log_bytes": 10,
        "schemathesis_cases": 5,
        "server_errors": 2,
        "undocumented_answers": 0,
        "unanswered_cases": 0,
        "fuzz_files": 4,
        "fuzz_crashes": 1,
        "soak_errors": 0,
        "soak_rss_growth_mb": 2.0,
        "soak_files_left": 1,
        "two_people_leaks": 1,
        "ssh_same_bytes": 1,
        "ssh_cuts_lost": 1,
    }
    assert "while it is judged: other bytes" in rows["ssh_cuts_lost"]["note"]
    assert "/feedback: reset" in rows["idle_connections_unanswered"]["note"]
    assert "boom: GET /x" in rows["server_errors"]["note"]
    assert "reply: drawn" in rows["two_people_leaks"]["note"]
