"""The support bundle: whole, and without a word that anybody wrote, wherever words can be."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lars_agent.example import Message
from lars_agent.store.manifest import AdapterManifest
from service.db.records import InteractionRecord, NewFeedback, ScheduledRun, now_utc
from service.settings.load import Settings
from service.support.allowed import LEFT_OUT, each, keys, moment, number, one_of
from service.support.log_told import known_events
from tests.service.api.conftest import fake_app, wait_until
from tests.service.cli.conftest import quiet, typed  # noqa: F401 (a fixture)
from tests.service.dashboard.conftest import served
from tests.service.house import House

PLANT = "qzplant"  # also a profile's name
TRACE = f"""Traceback (most recent call last):
  File "/home/{PLANT}/venv/service/cycle/cycle.py", line 40, in {PLANT}
  File "/home/{PLANT}/lars_agent/{PLANT}.py", line 3, in run
ValueError: {PLANT}
{PLANT.capitalize()}Error: {PLANT}
"""
CONFIG = f"""
[server]
token = "{PLANT} is a long token"
host = "{PLANT}.example"
allowed_hosts = ["{PLANT}.example"]
allowed_origins = ["https://{PLANT}.example"]
model_aliases = {{"{PLANT}" = "{PLANT}"}}
[model]
name = "/home/{PLANT}/model"
[schedule]
cron = "0 4 * * *"
timezone = "{PLANT}"
[recall]
profiles = {{{PLANT} = false}}
[lars]
target_modules = ["{PLANT}"]
[training]
batch_size = 4
"""
ENTRIES = [
    {"MESSAGE": PLANT, "LARS_AGENT_EVENT": PLANT, "PRIORITY": "4", "_HOSTNAME": PLANT, "__REALTIME_TIMESTAMP": PLANT},
    {"MESSAGE": f"job_failed\n{TRACE}", "LARS_AGENT_EVENT": "job_failed", "PRIORITY": "3", "LARS_AGENT_JOB": PLANT},
    {"MESSAGE": f"profile={PLANT}", "LARS_AGENT_EVENT": "job_ended", "LARS_AGENT_STATUS": PLANT, "PRIORITY": PLANT},
    {"MESSAGE_ID": "98e322203f7a4ed290d09fe03c09fe15", "EXIT_CODE": "killed", "EXIT_STATUS": "9"},
    {"MESSAGE": [81, 122], "EXIT_STATUS": PLANT, PLANT: PLANT},
    PLANT,
]


def searched(content: bytes, found: str = PLANT) -> list[str]:
    """The encodings in which the planted word is in the bytes, in upper or lower case."""
    forms = [found, found.lower(), found.upper()]
    codes = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")
    return [code for code in codes for form in forms if form.encode(code) in content]


def opened(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def plant_rows(house: House) -> None:
    db, now = house.db, now_utc()
    interaction = InteractionRecord(
        "i-1", now, PLANT, said(PLANT), {PLANT: PLANT}, PLANT, None, "eos_token", 3, 4, 1, (PLANT,), PLANT
    )
    db.interactions.add(interaction)
    db.feedback.add(
        NewFeedback(None, said(PLANT), PLANT, 1.0, PLANT, PLANT, (PLANT,), PLANT, "given", PLANT), idempotency_key=PLANT
    )
    job = db.jobs.add(PLANT, "manual", PLANT, {"metadata": {PLANT: PLANT}})
    db.jobs.update(
        job.id,
        status="failed",
        started=now,
        error=f"{PLANT} could not be read",
        spec={"model_path": PLANT, "dtype": PLANT, "threads": 2, "seen": [PLANT], "training": {"steps": 7, PLANT: 1}},
        result={"error_type": PLANT, "error": PLANT, "losses": {"train": 1.5, PLANT: 2.5}, "steps": 7, PLANT: 3},
        verdict={"accepted": False, "reasons": [PLANT]},
        pauses={"heat": {"count": 2, "seconds": 61.5, PLANT: 1}, PLANT: {"count": 1}},
    )
    folder = house.folder(job.id)
    folder.mkdir(parents=True)
    steps = [{"phase": "training", "step": 1, "loss": 2.25, "text": PLANT, PLANT: 1}, {"phase": PLANT, "step": PLANT}]
    (folder / "progress.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    (folder / "worker.log").write_text(TRACE)
    (folder / "train.jsonl").write_text(PLANT)
    db.scheduled_runs.record(ScheduledRun(PLANT, now, now, "skipped", PLANT, PLANT))
    db.scheduled_runs.record(ScheduledRun("default", now, now, "ran", PLANT, job.id))


def plant_files(house: House) -> None:
    candidate, data = house.settings.data_dir / PLANT, house.settings.data_dir
    candidate.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (candidate / name).write_text(json.dumps({PLANT: PLANT}))
    plan = {"micro_batch": 2, "dtype": PLANT, PLANT: 1}
    draft = AdapterManifest(
        job_id=PLANT, base_model=PLANT, example_ids=(PLANT, PLANT), plan=plan, losses={PLANT: 1.0, "train": 0.5},
        verdict={"accepted": True, "reasons": [PLANT]}, config={"rank": 16, "pooling": PLANT},
    )  # fmt: skip
    house.store.publish(PLANT, candidate, draft)
    model = data / "models" / PLANT
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": PLANT, "hidden_size": 576, PLANT: 1}))
    (data / "settings.json").write_text(json.dumps({"schedule": {"timezone": f"{PLANT}/2"}}))
    (data / f"{PLANT}.txt").write_text(PLANT)


@pytest.fixture(scope="module")
def device(tmp_path_factory, quiet) -> Iterator[Path]:  # noqa: F811
    """A device with a person's words in every place there is, but for those of a daemon that runs."""
    home = tmp_path_factory.mktemp(PLANT)
    house = House(home / "data")
    plant_rows(house)
    plant_files(house)
    house.close()
    (home / ".config" / "lars-agent").mkdir(parents=True)
    (home / ".config" / "lars-agent" / "config.toml").write_text(CONFIG)
    journal = home / "bin" / "journalctl"
    journal.parent.mkdir()
    lines = "\n".join(map(json.dumps, ENTRIES))
    journal.write_text(f"#!{sys.executable}\nprint({lines!r})\n")
    journal.chmod(0o755)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(home))
        environment.setenv("USER", PLANT)
        environment.setenv("PATH", f"{journal.parent}:{os.environ['PATH']}")
        environment.setenv("LARS_AGENT_DATA_DIR", str(home / "data"))
        environment.chdir(home)
        yield home


def test_a_bundle_has_facts_and_not_a_word_of_anybody_s_also_while_no_daemon_runs(device):
    before = sorted(path.name for path in (device / "data").iterdir())
    done = typed("support-bundle", str(device / "b.zip"), "--json")
    assert (done.code, done.err) == (0, "")
    assert stat.S_IMODE((device / "b.zip").stat().st_mode) == 0o600
    assert sorted(path.name for path in (device / "data").iterdir()) == before
    content = opened(device / "b.zip")
    assert {name: searched(text) for name, text in content.items() if searched(text)} == {}
    assert searched((device / "b.zip").read_bytes()) == []
    assert str(device).encode() not in b"".join(content.values())
    assert list(content) == list(json.loads(done.out)["members"])
    told = {name: json.loads(text) for name, text in content.items() if name.endswith(".json")}
    assert told["settings.json"]["schedule.cron"] == {"value": "0 4 * * *", "by": "a configuration file"}
    assert told["settings.json"]["schedule.timezone"] == {"value": "set, not shown", "by": "the settings page"}
    assert told["settings.json"]["server.model_aliases"]["value"] == "set, not shown: 1"
    assert told["settings.json"]["training.batch_size"]["value"] == 4
    assert told["database.json"]["schema"].isdecimal()
    assert told["database.json"]["is_sound"] is True
    assert (told["database.json"]["rows"]["interactions"], told["database.json"]["rows"]["feedback"]) == (1, 1)
    assert [(run["profile"], run["outcome"]) for run in told["nights.json"]] in (
        [("profile 1", "skipped"), ("default", "ran")],
        [("default", "ran"), ("profile 1", "skipped")],
    )
    (job,) = told["jobs.json"]
    assert (job["profile"], job["status"], job["result"]["losses"]) == ("profile 1", "failed", {"train": 1.5})
    assert job["pauses"] == {"heat": {"count": 2, "seconds": 61.5}}
    assert job["progress"] == [{"phase": "training", "step": 1, "loss": 2.25}, {}]
    assert job["log"] == ["service/cycle/cycle.py:40", "ValueError"]
    (version,) = told["versions.json"]
    assert (version["version"], version["example_ids"], version["plan"]) == (1, 2, {"micro_batch": 2})
    assert told["files.json"]["models"] == [{"hidden_size": 576}]
    failed = {"time": None, "PRIORITY": "3", "LARS_AGENT_EVENT": "job_failed"}
    assert told["log.json"][1] == failed | {"traceback": ["service/cycle/cycle.py:40", "ValueError"]}
    assert told["log.json"][3]["systemd"] == "process ended"
    assert told["doctor.json"][-1] == {"check": "daemon", "is_good": False}
    assert json.loads(content["metrics.txt"]) == {"error": "ApiError"}


def test_a_bundle_of_a_daemon_that_runs_has_its_metrics_and_nothing_that_a_client_said(tmp_path, quiet):  # noqa: F811
    settings = Settings(data_dir=tmp_path / PLANT, schedule={"enabled": False})
    with (
        served(fake_app(settings)) as url,
        httpx.Client(base_url=url, headers={"User-Agent": PLANT}, timeout=60) as http,
    ):
        wait_until(lambda: http.get("health").status_code == 200)
        chat = {"model": "base", "user": PLANT, "messages": [{"role": "user", "content": f"{PLANT}?"}]}
        http.post("v1/chat/completions", json=chat, headers={"X-Conversation-Id": PLANT}).raise_for_status()
        row = {"prompt": PLANT, "response": PLANT, "correction": PLANT, "comment": PLANT, "profile": PLANT}
        http.post("feedback", json={**row, "tags": [PLANT]}).raise_for_status()
        http.post("feedback/import", content=json.dumps({"prompt": PLANT, "completion": PLANT})).raise_for_status()
        http.post(f"generate?{PLANT}", json={"inputs": PLANT, "parameters": {"adapter_id": PLANT}})
        http.get(PLANT)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HOME", str(tmp_path))
            environment.setenv("LARS_AGENT_DATA_DIR", str(settings.data_dir))
            done = typed("support-bundle", str(tmp_path / "b.zip"), "--url", url)
    assert done.code == 0, done.err
    assert "Look into it before you send it" in done.out
    content = opened(tmp_path / "b.zip")
    assert {name: searched(text) for name, text in content.items() if searched(text)} == {}
    assert b'\nlars_agent_replies_total{outcome="eos_token"} ' in content["metrics.txt"]
    assert json.loads(content["database.json"])["rows"]["feedback"] == 2


def test_the_search_finds_what_is_there_in_every_form(device):
    assert searched((device / "data" / "lars-agent.db").read_bytes()) != []
    for code in ("utf-8", "utf-16-le", "utf-16-be"):
        assert code in searched(f"x{PLANT.upper()}x".encode(code))


def test_what_is_broken_is_told_by_the_kind_of_its_error(tmp_path, monkeypatch, quiet):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / PLANT))
    typed("support-bundle", str(tmp_path / "none.zip"))
    (tmp_path / PLANT).mkdir()
    (tmp_path / PLANT / "lars-agent.db").write_text(f"this is no database but {PLANT}")
    typed("support-bundle", str(tmp_path / "broken.zip"))
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", PLANT)
    typed("support-bundle", str(tmp_path / "settings.zip"))
    none, broken, settings = (opened(tmp_path / f"{name}.zip") for name in ("none", "broken", "settings"))
    assert json.loads(none["database.json"]) == {"error": "DatabaseUnusable"}
    assert json.loads(broken["jobs.json"]) == {"error": "DatabaseUnusable"}
    assert json.loads(settings["settings.json"]) == {"error": "ConfigError"}
    assert searched(b"".join([*none.values(), *broken.values(), *settings.values()])) == []


def test_a_file_that_is_there_is_not_replaced(device):
    (device / "mine.zip").write_text("mine")
    done = typed("support-bundle", str(device / "mine.zip"))
    assert done.code == 1
    assert "give another name" in done.err
    assert (device / "mine.zip").read_text() == "mine"


@pytest.mark.parametrize(
    ("rule", "value", "told"),
    [
        (number, "4", LEFT_OUT),
        (number, 4.5, 4.5),
        (moment, "2026-11-29T03:00:00+01:00", "2026-11-29T02:00:00+00:00"),
        (moment, f"2026-11-29 {PLANT}", LEFT_OUT),
        (one_of(["a"]), ["a"], LEFT_OUT),
        (one_of(["a"]), "a ", LEFT_OUT),
        (each(number), [1, PLANT, 2], [1, 2]),
        (each(number), {PLANT: 1}, []),
        (keys(a=number), {"a": PLANT, PLANT: 1}, {}),
        (keys(a=keys(b=number)), {"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}),
        (keys(a=number), PLANT, LEFT_OUT),
    ],
)
def test_a_rule_lets_through_what_it_names_and_nothing_else(rule, value, told):
    assert rule(value) == told


def test_the_events_are_those_that_the_sources_log():
    logged = {"job_ended", "worker_resumed", "clock_plausible", "worker_ended", "import_undone", "request", "read_only"}
    assert logged <= known_events()
    assert {"rb", "", "job", PLANT} & known_events() == set()


def test_the_bundle_is_a_zip_that_names_no_user(device):
    typed("support-bundle", str(device / "owner.zip"))
    content = (device / "owner.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert all(info.extra == b"" and info.comment == b"" for info in archive.infolist())
