"""Jobs on another machine: a real sshd on loopback and its guest; what is lost, and what is left.

The worker there is the stand-in. A whole job of the real one, and its bytes: `python -m bench ops --parts ssh_runner`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from bench.ops.other_machine import missing_programs, other_machine
from lars_agent.models.weights import weight_files, weights_digest
from lars_agent.training.job_directory import read_progress
from service.worker.remote.carrier import _within
from service.worker.remote.connection import Cut
from service.worker.remote.leftovers import Leftovers
from tests.service.house import STANDIN, FakeModel, House, until

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason="needs sshd and rsync (Debian: openssh-server, rsync)")
LIMIT_S = 120.0
# An installation there whose worker is the stand-in; all else is the real guest.
PYTHON = """#!/bin/sh
exec {python} -P -c 'import sys
import service.worker.remote.guest as guest
guest.DEFAULT_COMMAND = ("{python}", "{standin}", "--wait", "{go}")
sys.exit(guest.main())'
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("there")
    (folder / "venv" / "bin").mkdir(parents=True)
    python = folder / "venv" / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable, standin=STANDIN, go=folder / "go"))
    python.chmod(0o755)
    with other_machine(folder / "machine") as machine, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{machine.bin_folder}:{os.environ['PATH']}")
        yield machine


@pytest.fixture
def house(tmp_path, machine):
    """A house that trains there, where its base model is not yet; here the stand-in ends at once."""
    if machine.process is None:
        machine.start()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text(str(tmp_path))
    runner = machine.runner.removesuffix(sys.prefix) + str(machine.folder.parent)
    house = House(tmp_path / "data", training={"runner": runner, "runner_takes_model": True})
    house.model = FakeModel(model, sha256=weights_digest(weight_files(model)))
    house.correct()
    yield house
    house.close()


def wait_for_checkpoint(house, job):
    """Wait until a checkpoint of the worker there has come back."""
    until(lambda: list(house.folder(job.id).glob("checkpoint-*")), "a checkpoint has come back", LIMIT_S)


def states(machine) -> list[str]:
    """The states of the workers that run there."""
    everything = psutil.Process(machine.process.pid).children(recursive=True)
    return [one.status() for one in everything if one.cmdline()[1:2] == [str(STANDIN)]]


def records(house) -> list[Path]:
    return list(house.settings.elsewhere_dir.glob("*.json"))


def test_a_cut_connection_goes_on_here_from_the_last_checkpoint_and_leaves_nothing_there(house, machine):
    supervisor = house.supervisor()
    job = supervisor.adapt()
    wait_for_checkpoint(house, job)
    assert machine.personal_files()
    assert machine.cut()
    assert supervisor.wait(LIMIT_S)
    row = house.db.jobs.get(job.id)
    assert (row.status, row.spec["runner"]) == ("succeeded", "local"), row.error
    assert row.spec["not_there"].startswith("ssh://")
    assert any(line.get("resumed", 0) > 0 for line in read_progress(house.folder(job.id)))
    until(lambda: not machine.personal_files(), "the guest has removed everything", LIMIT_S)
    assert Leftovers(house.settings.elsewhere_dir, BackgroundScheduler()).clean() == []


def test_what_a_dead_guest_left_is_removed_at_the_next_contact(house, machine):
    supervisor = house.supervisor()
    job = supervisor.adapt()
    wait_for_checkpoint(house, job)
    machine.crash()
    assert supervisor.wait(LIMIT_S)
    assert house.db.jobs.get(job.id).status == "succeeded"
    leftovers = Leftovers(house.settings.elsewhere_dir, BackgroundScheduler())
    assert machine.personal_files()
    assert [alarm.code for alarm in leftovers.problems()] == ["left_elsewhere"]
    assert len(leftovers.clean()) == 1  # nobody answers
    machine.start()
    assert leftovers.clean() == leftovers.problems() == []
    assert machine.personal_files() == []


def test_a_job_there_is_paused_and_goes_on_and_when_it_is_cancelled_nothing_is_left_there(house, machine):
    supervisor = house.supervisor()
    job = supervisor.adapt()
    wait_for_checkpoint(house, job)
    supervisor.pause(job.id)

    until(lambda: states(machine) == [psutil.STATUS_STOPPED], "the worker there stands still", LIMIT_S)
    supervisor.resume(job.id)
    until(lambda: states(machine) not in ([], [psutil.STATUS_STOPPED]), "it goes on", LIMIT_S)
    supervisor.cancel(job.id)
    assert supervisor.wait(LIMIT_S)
    assert house.db.jobs.get(job.id).status == "cancelled"
    assert machine.personal_files() == records(house) == []


def test_a_machine_whose_key_is_not_known_gets_nothing(house, machine):
    known = machine.folder / "known"
    key = known.read_text()
    known.write_text("")
    try:
        supervisor = house.supervisor()
        job = supervisor.adapt()
        assert supervisor.wait(LIMIT_S)
    finally:
        known.write_text(key)
    row = house.db.jobs.get(job.id)
    assert row.status == "succeeded"
    assert "Host key verification failed" in row.spec["not_there"]
    assert machine.personal_files() == records(house) == []


@pytest.mark.parametrize("name", ["candidate/../../x", "candidate/a/b", "candidate//etc/passwd"])
def test_paths_that_lead_elsewhere_are_refused(name):
    with pytest.raises(Cut, match="outside"):
        _within({name: "0" * 64}, "candidate")
