"""The command line as a user types it, against the real daemon on a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from service.db import Database
from service.db.records import ScheduledRun
from tests.service.cli.conftest import typed
from tests.tiny import save_tiny

WORDS_ON_START = "dashboard: "
START_S = 120
NIGHT = datetime(2026, 3, 4, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A real daemon process on a free port; yields the environment that its clients need."""
    folder = tmp_path_factory.mktemp("cli")
    environment = os.environ | {
        "LARS_AGENT_DATA_DIR": str(folder / "data"),
        "LARS_AGENT_MODEL__NAME": str(save_tiny(folder / "tiny")),
        "LARS_AGENT_SCHEDULE__ENABLED": "false",
        "LARS_AGENT_RUNTIME__THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(folder),
        "HOME": str(folder),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith(WORDS_ON_START)).split()[1]
        environment["LARS_AGENT_URL"] = url
        deadline = time.monotonic() + START_S
        while httpx.get(f"{url}health").status_code != httpx.codes.OK and time.monotonic() < deadline:
            time.sleep(0.1)
        yield environment
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)


def run(environment, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What a command does that is typed in this process, where nothing has to be imported anew."""
    with patch.dict(os.environ, environment, clear=True):
        done = typed(*arguments, stdin=stdin)
    return subprocess.CompletedProcess(arguments, done.code, done.out, done.err)


def serve(environment) -> subprocess.CompletedProcess[str]:
    """What a daemon says that does not start."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_status_tells_the_model_the_version_and_the_feedback(daemon):
    done = run(daemon, "status", "--json")
    assert done.returncode == 0
    info = json.loads(done.stdout)
    assert info["serving"] == {"default": "base"}
    assert "serving   default: base" in run(daemon, "status").stdout


def test_feedback_is_stored_exported_and_forgotten(daemon):
    stored = run(daemon, "feedback", "--prompt", "My dog?", "--response", "No idea.", "--correction", "Biscuit.")
    assert stored.returncode == 0
    feedback_id = stored.stdout.split()[1]
    exported = run(daemon, "export", "--format", "prompt-completion")
    assert "Biscuit." in exported.stdout
    assert run(daemon, "forget", feedback_id).returncode == 0
    assert "Biscuit." not in run(daemon, "export", "--format", "prompt-completion").stdout


def test_what_was_exported_can_be_imported(daemon, tmp_path):
    run(daemon, "feedback", "--prompt", "My cat?", "--response", "No idea.", "--correction", "Pepper.")
    exported = run(daemon, "export", "--format", "messages").stdout
    (tmp_path / "lines.jsonl").write_text(exported)
    done = run(daemon, "import", str(tmp_path / "lines.jsonl"))
    assert done.returncode == 0, done.stderr


def test_chat_streams_a_reply_and_takes_feedback_on_it(daemon):
    done = run(daemon, "chat", stdin="/good\nHello\n/fix Hello, Mara.\n/quit\n")
    assert done.returncode == 0
    assert "say something first" in done.stdout
    assert "stored f-" in done.stdout


def test_chat_with_a_new_profile_begins_it_with_the_first_feedback(daemon):
    done = run(daemon, "chat", "--profile", "eve", stdin="Hello\nHello?\n/fix Hello, Eve.\nHello!\n/good\n/quit\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("no profile eve yet") == 1
    assert run(daemon, "export", "--profile", "eve").stdout.count("Hello, Eve.") == 1
    assert httpx.get(f"{daemon['LARS_AGENT_URL']}v1/models/eve").status_code == 200
    assert "@v9" in run(daemon, "chat", "--profile", "nobody@v9", stdin="Hello\n/quit\n").stdout


def test_chat_continues_after_a_refused_turn(daemon):
    done = run(daemon, "chat", stdin=f"{'x' * 3000}\nHello\n/fix\n/good\n/quit\n")
    assert done.returncode == 0
    assert "error: " in done.stdout
    assert "/fix TEXT" in done.stdout
    assert "stored f-" in done.stdout


def test_feedback_goes_from_one_person_to_another_by_export_and_import(daemon, tmp_path):
    run(daemon, "feedback", "--prompt", "My hen?", "--response", "No idea.", "--correction", "Ida.", "--profile", "ann")
    exported = run(daemon, "export", "--profile", "ann").stdout
    assert exported.count("\n") == 1
    (tmp_path / "ann.jsonl").write_text(exported)
    assert run(daemon, "import", str(tmp_path / "ann.jsonl"), "--profile", "ben").returncode == 0
    assert run(daemon, "export", "--profile", "ben").stdout.count("Ida.") == 1


def test_invalid_address_is_one_line_on_stderr(tmp_path):
    done = run(os.environ | {"HOME": str(tmp_path), "LARS_AGENT_URL": "http://[nowhere"}, "status")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("activate", "v9"), "v9"),
        (("rollback",), "nothing to roll back"),
        (("feedback", "--interaction", "i-nope", "--rating", "up"), "i-nope"),
        (("feedback", "--prompt", "a", "--response", "b", "--rating", "sideways"), "rating"),
        (("forget", "f-nope"), "f-nope"),
        (("model", "pull", "nothing"), "is no model"),
    ],
)
def test_failed_command_prints_one_line_on_stderr_and_exits_1(daemon, arguments, words):
    done = run(daemon, *arguments)
    assert done.returncode == 1
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_missing_daemon_is_reported_with_the_command_to_run(tmp_path):
    done = run(os.environ | {"LARS_AGENT_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}, "status")
    assert done.returncode == 1
    assert "lars-agent serve" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("arguments", [("bogus",), ("activate",), ("adapt", "--colour")])
def test_wrong_use_exits_2(arguments):
    assert run(os.environ, *arguments).returncode == 2


def entry_point(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed command itself."""
    command = [str(Path(sys.executable).with_name("lars-agent")), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)


def test_version_is_that_of_the_package():
    done = entry_point("--version")
    assert (done.returncode, done.stdout) == (0, f"lars-agent {version('lars-agent')}\n")


def test_shell_completion_knows_commands_and_is_shown_and_installed(tmp_path):
    words = {"_LARS_AGENT_COMPLETE": "complete_bash", "COMP_WORDS": "lars-agent sche", "COMP_CWORD": "1"}
    assert entry_point(**words).stdout.split() == ["schedule"]
    words |= {"COMP_WORDS": "lars-agent jobs ", "COMP_CWORD": "2"}
    assert {"list", "cancel"} <= {*entry_point(**words).stdout.split()}
    in_bash = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = entry_point("--show-completion", "bash", **in_bash)
    assert "complete -o default -F _lars_agent_completion lars-agent" in shown.stdout
    assert entry_point("--install-completion", "bash", **in_bash).returncode == 0
    assert "lars-agent" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_neither_torch_nor_the_daemon(option):
    code = f"import sys; sys.argv[1:] = [{option!r}]; from service.cli.main import main"
    code += "\ntry: main()\nexcept SystemExit: pass"
    code += "\nsys.exit(str(sorted({'torch', 'fastapi', 'sqlalchemy'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr.strip(), "lars-agent" in done.stdout) == ("[]", True)


def test_schedule_history_lists_runs_and_so_does_its_earlier_name(daemon):
    db = Database(Path(daemon["LARS_AGENT_DATA_DIR"]) / "lars-agent.db")
    db.scheduled_runs.record(ScheduledRun("default", NIGHT, NIGHT, "skipped", "nothing new"))
    db.close()
    for command in (("schedule", "history"), ("nights",)):
        listed = json.loads(run(daemon, *command, "--json").stdout)
        assert [(item["outcome"], item["reason"]) for item in listed] == [("skipped", "nothing new")]
        assert "skipped" in run(daemon, *command).stdout
    assert "nights" not in run(daemon, "--help").stdout


def test_models_are_listed(daemon):
    listed = json.loads(run(daemon, "model", "list", "--json").stdout)
    assert [model["name"] for model in listed] == ["tiny"]
    assert Path(listed[0]["folder"]).is_dir()


def test_a_second_daemon_on_the_same_data_is_refused(daemon):
    done = serve(daemon)
    assert done.returncode == 1
    words = done.stderr.replace("\n", " ")
    assert re.search(r"another daemon \(process \d+\) works with .* since 20.*, as `.*service serve --port 0`", words)


def test_plan_shows_terms_and_ladder(daemon):
    for number in range(2):
        run(daemon, "feedback", "--prompt", f"No {number}?", "--response", "No.", "--correction", f"Yes {number}.")
    done = run(daemon, "plan")
    assert done.returncode == 0, done.stderr
    assert "AdamW's moments" in done.stdout
    assert "% of the 1,920 MiB that the budget leaves for training" in done.stdout


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    data = tmp_path / "data"
    Database(data / "lars-agent.db").close()
    with closing(sqlite3.connect(data / "lars-agent.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = (data / "lars-agent.db").read_bytes()
    environment = os.environ | {"LARS_AGENT_DATA_DIR": str(data), "LARS_AGENT_MODEL__NAME": str(tmp_path / "none")}
    done = serve(environment | {"HOME": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has schema 9999, this lars-agent knows up to" in done.stderr
    assert (data / "lars-agent.db").read_bytes() == before
    assert sorted(path.name for path in data.glob("lars-agent.db*")) == ["lars-agent.db"]


def test_settings_are_shown_changed_and_reset(daemon):
    assert "training.epochs = 24 (the default)" in run(daemon, "settings", "training.epochs").stdout
    changed = run(daemon, "settings", "training.epochs", "12")
    assert "training.epochs = 12 (the settings page)" in changed.stdout
    assert "training.epochs" in run(daemon, "settings").stdout
    waiting = run(daemon, "settings", "model.dtype", "int8").stdout
    assert "model.dtype = int8 (the settings page; it applies at the next start)" in waiting
    for key in ("training.epochs", "model.dtype"):
        assert "the default" in run(daemon, "settings", key, "--reset").stdout
    refused = run(daemon, "settings", "training.epochs", "many")
    assert (refused.returncode, "training.epochs" in refused.stderr) == (1, True)
    assert run(daemon, "settings", "training.colour").returncode == 1
    assert run(daemon, "settings", "--reset").returncode == 2
    assert json.loads(run(daemon, "settings", "training.epochs", "--json").stdout)[0]["value"] == 24
