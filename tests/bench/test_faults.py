"""What the fault bench counts, and how it counts; no daemon is struck here."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from bench.faults import disks
from bench.faults.clients import Clients
from bench.faults.disks import POINTS
from bench.faults.injection import RANDOM
from bench.faults.kills import AIMS, TARGETS, draw_kill, spread
from bench.faults.parts import RUNS, disk_losses, fault_rows, says_full
from bench.faults.scenario import FaultSettings, Findings
from bench.faults.state import (
    Job,
    compare,
    has_begun,
    integrity,
    jobs,
    measured,
    phase,
    store_problems,
    stored_feedback,
)
from bench.suite import Suite
from lars_agent.errors import LarsError

RUNNING = Job("j-1", "running", None, None)
RESUMED = {"whole": "a", "broken": "a", "interrupted_after_step": [1], "signals": ["SIGTERM"], "steps": 9, "threads": 2}
RESUMED |= {"model": "default"}


def test_feedback_that_is_missing_or_has_another_id_is_lost():
    promised = {"a": "f-1", "b": "f-2", "c": "f-3"}
    assert compare(promised, [("a", "f-1", "a"), ("b", "f-9", "b"), (None, "f-4", None)]) == (["b", "c"], [])


def test_feedback_that_is_there_twice_is_counted_even_if_nobody_was_promised_it():
    rows = [("a", "f-1", "a"), (None, "f-2", "a"), (None, "f-3", "b"), ("b", "f-4", "b")]
    assert compare({"a": "f-1"}, rows) == ([], ["a", "b"])


def test_clients_keep_each_message_of_an_error_once():
    clients = Clients("http://127.0.0.1:1", "test")
    clients.failed += [(507, "full"), (500, "torn"), (507, "full")]
    assert clients.errors() == {"500": ["torn"], "507": ["full"]}


def test_a_damaged_database_is_unsound():
    found = Findings()
    audited = {"acknowledged": 1, "lost": [], "duplicated": [], "unsound": ["v1 is torn"]}
    found.add(audited | {"integrity": "ok"})
    found.add(audited | {"integrity": "file is not a database"})
    assert found.unsound == ["v1 is torn", "file is not a database", "v1 is torn"]


def test_a_database_is_read_from_a_copy_with_its_log(tmp_path):
    file = tmp_path / "lars-agent.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE feedback (idempotency_key, id, comment)")
        connection.execute("INSERT INTO feedback VALUES ('a', 'f-1', 'a')")
        connection.commit()
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert stored_feedback(file) == [("a", "f-1", "a")]
        assert integrity(file) == "ok"
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_database_that_is_none_holds_nothing_and_says_so(tmp_path):
    file = tmp_path / "lars-agent.db"
    file.write_bytes(b"torn" * 1000)
    assert stored_feedback(file) == []
    assert integrity(file) == "file is not a database"
    assert jobs(tmp_path) == []


def test_the_phase_is_what_the_files_of_the_job_say(tmp_path):
    folder = tmp_path / "jobs" / "j-1"

    def now() -> str:
        return phase(tmp_path, RUNNING, healthy=True)

    assert phase(tmp_path, RUNNING, healthy=False) == "start"
    assert phase(tmp_path, None, healthy=True) == "load"
    assert phase(tmp_path, Job("j-1", "failed", None, "given up"), healthy=True) == "load"
    folder.mkdir(parents=True)
    assert now() == "snapshot"
    (folder / "job.json").write_text("{}")
    assert now() == "planning"
    progress = folder / "progress.jsonl"
    progress.write_text(json.dumps({"phase": "training", "step": 1}) + '\n{"phase": "jud')
    assert now() == "training"
    progress.write_text(json.dumps({"phase": "judging", "step": 2}) + "\n")
    assert now() == "judging"
    (folder / "result.json").write_text("{}")
    assert now() == "publishing"


def test_a_phase_has_begun_when_the_newest_job_is_there_or_further(tmp_path):
    assert not has_begun(tmp_path, "snapshot", set())
    folder = tmp_path / "jobs" / "j-2"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    assert has_begun(tmp_path, "snapshot", set())
    assert not has_begun(tmp_path, "judging", set())
    (folder / "result.json").write_text("{}")
    assert has_begun(tmp_path, "judging", set())
    assert measured(tmp_path) == {"j-2"}
    assert not has_begun(tmp_path, "judging", measured(tmp_path))


def test_a_pointer_to_nothing_is_a_fault_and_an_empty_store_is_none(tmp_path):
    assert store_problems(tmp_path) == []
    home = tmp_path / "adapters" / "default"
    home.mkdir(parents=True)
    (home / "last").write_text("1\n")
    (home / "active").write_text("1\n")
    (words,) = store_problems(tmp_path)
    assert "default's pointer" in words


def test_the_same_seed_draws_the_same_strikes_of_every_kind():
    first, second = random.Random("0-1"), random.Random("0-1")
    strikes = [draw_kill(first, 10.0) for _ in range(300)]
    assert strikes == [draw_kill(second, 10.0) for _ in range(300)]
    assert {strike.target for strike in strikes} == set(TARGETS)
    assert {strike.aim for strike in strikes} == {None, *AIMS}
    unaimed = [strike.after_s for strike in strikes if strike.aim is None]
    assert min(unaimed) < 1
    assert max(unaimed) > 9


def test_lanes_are_added_up():
    one = Findings(strikes=2, phases=Counter(start=2), restart_s=[1.0])
    other = Findings(strikes=1, phases=Counter(training=1), lost=["a"])
    found = vars(one + other)
    assert found["strikes"] == 3
    assert found["restart_s"] == [1.0]
    assert found["lost"] == ["a"]
    assert found["phases"] == {"start": 2, "training": 1}
    json.dumps(found)


def test_steps_are_spread_and_each_is_taken_once_there_are_enough_strikes():
    assert spread(10, 5, seed=0) == [0, 2, 4, 6, 8]
    more = spread(10, 14, seed=0)
    assert more[:10] == list(range(10))
    assert len(more) == 14
    assert more == spread(10, 14, seed=0)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("os.rename .last.cd3aba118781.tmp", "os.rename .last.*.tmp"),
        ("open .publish-ioido8qh", "open .publish-*"),
        ("open adapter_model.safetensors", "open adapter_model.safetensors"),
    ],
)
def test_the_same_step_has_the_same_name_whenever_it_is_taken(name, plain):
    assert RANDOM.sub("*", name) == plain


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("examples", "jobs/j-1a2b/.train.jsonl.cd3aba118781.tmp"),
        ("checkpoint", "jobs/j-1a2b/.checkpoint-5.tmp/state.safetensors"),
        ("published copy", "adapters/default/.publish-ioido8qh/adapter_model.safetensors"),
        ("pointer", "adapters/default/.active.cd3aba118781.tmp"),
    ],
)
def test_a_write_is_found_by_its_path(name, path):
    assert re.fullmatch(POINTS[name].removeprefix("file "), path)


def point(**changes):
    fine = {"name": "pointer", "lost": [], "duplicated": [], "unsound": [], "integrity": "ok", "reply_after": 200}
    fine |= {"reply_while_full": 200, "said": {"507": ["full"]}, "next": "succeeded", "next_s": 9.0}
    return fine | {"jobs": ["succeeded: None", "failed: no room on the disk to write x"]} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lost": ["a"]}, "1 acknowledged feedbacks lost"),
        ({"integrity": "torn"}, "the database is damaged"),
        ({"next": "none"}, "the next cycle: none"),
        ({"reply_while_full": 507}, "answered with 507"),
        ({"said": {"500": ["torn"]}}, "answered with 500"),
    ],
)
def test_each_thing_that_a_full_disk_broke_is_a_loss(changes, words):
    assert disk_losses(point()) == []
    (loss,) = disk_losses(point(**changes))
    assert words in loss


def test_a_job_that_failed_without_naming_the_disk_has_not_said_it():
    assert says_full(point())
    assert not says_full(point(jobs=["failed: the worker ended with exit status 1"]))
    assert not says_full(point(jobs=["succeeded: None"], said={}))


def struck(**changes):
    found = {"strikes": 2, "targets": {"group": 2}, "phases": {"start": 1, "training": 1}, "orphans": 0, "replies": 7}
    found |= {"restart_s": [3.0], "acknowledged": 40, "endings": {"succeeded": 3}, "lost": [], "duplicated": []}
    return found | {"unsound": [], "wrong_replies": [], "stuck": [], "published_twice": []} | changes


def named(rows):
    return {row["name"]: row for row in rows}


def test_what_was_not_run_makes_no_row():
    assert fault_rows({}) == []
    assert set(named(fault_rows({"resume": RESUMED}))) == {"resume_equal"}


def test_kills_and_points_are_one_row_and_their_losses_too():
    points = struck(steps={"publish": 2}, steps_there_are=["publish", "commit"], lost=["x"])
    rows = named(fault_rows({"kills": struck(stuck=["j-1"]), "points": points}))
    assert rows["kills"]["value"] == 4
    assert rows["lost_feedback"]["value"] == 1
    assert rows["cycles_ended"]["value"] == 6
    assert rows["stuck_cycles"]["value"] == 1
    assert rows["kills_training"]["value"] == 1
    assert rows["kills_judging"]["value"] == 0
    assert "starts.json" in rows["kills"]["note"]


def test_the_control_of_the_power_cuts_is_no_loss_of_ours_but_a_row():
    cut = {"promised": 9, "integrity": "ok", "phase": "training", "lost": 0, "duplicated": 0, "unsound": []}
    flushing = {"cuts": [cut], "restarts": 1, "acknowledged": 9, "phases": {"training": 1}}
    control = {"cuts": [cut | {"lost": 9, "integrity": "file is not a database"}], "acknowledged": 9}
    rows = named(fault_rows({"cuts": {"flushing": flushing, "control": control}}))
    assert rows["power_cuts"]["value"] == 1
    assert rows["lost_feedback"]["value"] == 0
    assert rows["power_cuts_control_losing"]["value"] == 1
    assert "kills" not in rows


def test_the_ratio_is_of_pairs_and_the_bytes_are_equal_or_not():
    found = {"idle_ms": [10.0, 20.0, 10.0], "training_ms": [11.0, 40.0, 12.0], "model": "default"}
    rows = named(fault_rows({"latency": found, "resume": RESUMED | {"broken": "b"}}))
    assert rows["ttft_training_over_idle"]["value"] == 1.2
    assert rows["ttft_training_over_idle"]["runs"] == 3
    assert rows["resume_equal"]["value"] == 0


def test_the_newest_run_of_a_part_counts(tmp_path):
    lines = [{"part": "resume", "figures": RESUMED | {"broken": "b"}}, {"part": "resume", "figures": RESUMED}]
    (tmp_path / "faults-runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = Suite("faults", "python -m bench faults", (RUNS,)).write(tmp_path)
    assert named(rows)["resume_equal"]["value"] == 1
    assert json.loads((tmp_path / "faults.json").read_text())["area"] == "faults"


def test_cuts_without_their_control_are_refused(monkeypatch):
    monkeypatch.setattr(disks.shutil, "which", lambda name: None)
    with pytest.raises(LarsError, match="apt-get install eatmydata"):
        disks.cuts(FaultSettings(0, 1, 1, 1, 1, Path()), Path())


def test_a_part_that_is_none_is_named(bench, tmp_path):
    done = bench("faults", "--parts", "kills,nope", "--out", tmp_path)
    assert done.returncode == 2
    assert "'nope' is none of" in " ".join(done.stderr.replace("│", " ").split())
