"""A state folder and a configuration file written by commit e803412 open and serve today.

The folder holds five corrections and an upvote of another profile, two interactions, a job that succeeded, its version
v1 of the real default model, and two scheduled runs that waited. Paths in it are those of a service.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.running import daemon
from tests.default_model import CACHE, default_model_folder

WRITTEN = Path(__file__).parent / "fixtures" / "state_e803412"
JOB = "j-1a221fcc4de2236008747fd"

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    default_model_folder()
    state = tmp_path_factory.mktemp("written") / "data"
    shutil.copytree(WRITTEN / "data", state)
    (state / "models").symlink_to(CACHE)
    return state


@pytest.fixture(scope="module")
def running(state, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    config = home / ".config" / "lars-agent" / "config.toml"
    config.parent.mkdir(parents=True)
    shutil.copy(WRITTEN / "config.toml", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with daemon(state, runtime__threads="1") as found:
            yield found


def test_the_adapter_in_use_then_replies_now(running):
    assert running.get("/info")["serving"]["default"] == "v1"
    text, details = running.reply("What is the boat called?")
    assert text
    assert details["adapter_version"] == "v1"
    assert [adapter["version"] for adapter in running.get("/adapters")["adapters"]] == ["v1"]
    assert running.get("/adapters?verify=true")["problems"] == {}


def test_the_settings_hold(running):
    info = running.get("/info")
    assert info["model"]["dtype"] == "float32"
    assert info["schedule"]["cron"] == "0 3 * * *"


def test_what_was_said_and_done_is_there(running):
    assert running.get("/info")["feedback"] == {"total": 6, "corrections": 5, "liked": 1, "disliked": 0, "stated": 0}
    corrections = {row["correction"] for row in running.get("/feedback?profile=default")["feedback"]}
    assert "Odile waters the ferns." in corrections
    asked = [row["messages"][0]["content"] for row in running.get("/interactions?limit=100")["interactions"]]
    assert "Where do I keep the spare key?" in asked
    job = running.get(f"/jobs/{JOB}")
    assert (job["status"], job["version"], job["pauses"]["requests"]["count"]) == ("succeeded", "v1", 1)
    assert [line["step"] for line in running.get(f"/jobs/{JOB}/progress")["progress"]][-1] == 6


def test_the_old_path_and_command_tell_of_scheduled_runs(running, state):
    cycles = running.get("/cycles")["cycles"]
    assert [(cycle["profile"], cycle["outcome"]) for cycle in cycles] == [("alice", "waiting"), ("default", "waiting")]
    environment = os.environ | {"LARS_AGENT_URL": str(running.http.base_url), "LARS_AGENT_DATA_DIR": str(state)}
    command = [sys.executable, "-m", "service", "nights", "--json"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert [cycle["profile"] for cycle in json.loads(told)] == ["default"]


def test_one_can_take_the_version_back_and_put_it_in_use_again(running):
    assert running.post("/adapters/rollback", {})["active"] == "base"
    assert running.post("/adapters/v1/activate", {})["active"] == "v1"
    assert running.reply("What is the boat called?")[1]["adapter_version"] == "v1"
