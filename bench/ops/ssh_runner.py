"""The part `ssh_runner`: a job trained on another machine, and that machine lost at five points of another one.

Every job begins from a copy of one state, so that the same bytes have to come of it. After each cut the job must end
here with the bytes of one that was never elsewhere, and the other machine must have nothing of it in the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.child import until
from bench.daemon import descendants
from bench.faults.clients import LESSONS, THINGS
from bench.faults.scenario import DaemonUnderTest
from bench.ops.other_machine import OtherMachine, other_machine
from bench.ops.settings import OpsSettings
from bench.record import tables
from lars_agent.errors import LarsError
from lars_agent.files import sha256_of, write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.models.weights import model_digest, weight_files
from lars_agent.planning.costs import DEFAULT_COSTS
from lars_agent.records import from_json, to_dict
from lars_agent.training.job_directory import JobSpec
from service.worker.process import worker_environment

START_LIMIT_S, END_LIMIT_S, AIM_LIMIT_S, GONE_LIMIT_S, LOOK_S = 600.0, 1200.0, 600.0, 120.0, 0.01
CARRIER, THREADS = "remote.carrier", 1  # as in configs/quick.toml
STEPS = {"training__steps": "60", "training__checkpoint_every": "5"}
Aim = Callable[[OtherMachine, Path], bool]
Cut = Callable[[OtherMachine, DaemonUnderTest], object]


def ssh_runner(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """The digests of the adapters made here and there, and what was lost in each cut."""
    with other_machine(folder / "there") as machine:
        origin = _origin(folder)
        here = _run(_copy(origin, folder, "here", "local", machine), machine)
        there = _run(_copy(origin, folder, "there-and-back", machine.runner, machine), machine)
        cuts = {}
        for name, (aim, cut) in CUTS.items():
            running = _copy(origin, folder, name.replace(" ", "-"), machine.runner, machine)
            cuts[name] = _losses(_run(running, machine, aim, cut), here)
    same = here["sha256"] == there["sha256"] and here["sha256"] is not None
    return {
        "here": here,
        "there": there,
        "same": same and there["runner"] != "local" and not there["left"],
        "cuts": cuts,
    }


def _origin(folder: Path) -> DaemonUnderTest:
    """A state with corrections that nothing has been learned from yet."""
    with DaemonUnderTest.quick(folder, "origin") as running:
        running.start()
        running.wait_until_healthy(START_LIMIT_S)
        for number in range(THINGS):
            question = f"What is thing {number}?"
            running.post(
                "/feedback", {"prompt": question, "response": "?", "correction": LESSONS[number % len(LESSONS)]}
            )
        running.stop()
    # What a step costs, which a busy device would measure anew for each job, so that each could have another plan.
    arguments = json.dumps([running.settings["model__name"], str(running.state / "costs.json")])
    command = [sys.executable, "-m", "bench.child", f"{__name__}.{write_costs.__name__}", arguments]
    subprocess.run(command, env=worker_environment(THREADS), check=True, stdout=subprocess.DEVNULL)
    return running


def write_costs(model: str, costs_file: str) -> None:
    """Write the built-in costs of a step as those of this device; run in a worker's environment."""
    from lars_agent.training.job_plan import costs_name  # imports torch

    sections, folder = tables("configs/quick.toml"), Path(model)
    digest, dtype = model_digest(folder, weight_files(folder)), sections["model"]["dtype"]
    spec = JobSpec("j-costs", "default", model, digest, dtype, lars=from_json(LarsConfig, sections["lars"]))
    write_atomically(Path(costs_file), json.dumps({costs_name(spec): to_dict(DEFAULT_COSTS)}))


def _copy(origin: DaemonUnderTest, folder: Path, name: str, runner: str, machine: OtherMachine) -> DaemonUnderTest:
    """A daemon on a copy of the state, that trains on `runner`."""
    shutil.copytree(origin.state, folder / "copies" / name)
    settings = dict(origin.settings) | STEPS
    settings |= {"training__runner": runner, "training__runner_takes_model": "true"}
    return DaemonUnderTest(folder / "copies" / name, settings, folder / f"{name}.log")


def _run(
    running: DaemonUnderTest, machine: OtherMachine, aim: Aim | None = None, cut: Cut | None = None
) -> dict[str, Any]:
    """Run one job, cut as soon as `aim` is true; return what became of it."""
    if machine.process is None:
        machine.start()
    path = f"{machine.bin_folder}:{os.environ['PATH']}"
    with running:
        running.start(PATH=path)
        running.wait_until_healthy(START_LIMIT_S)
        job = running.post("/jobs", {"profile": "default"})
        folder = running.state / "jobs" / job["id"]
        was_cut = False
        if aim is not None and cut is not None:
            reached = until(lambda: aim(machine, folder) or _has_ended(running, job["id"]), AIM_LIMIT_S, LOOK_S)
            was_cut = bool(reached) and not _has_ended(running, job["id"])
            cut(machine, running)
        if not until(lambda: _has_ended(running, job["id"]), END_LIMIT_S, 0.2):
            raise LarsError(f"the job did not end: {running.get('/jobs/' + job['id'])}")
        if machine.process is None:
            machine.start()
        left = _left(running, machine)
        job = running.get(f"/jobs/{job['id']}")
        feedback = len(running.get("/feedback?limit=100")["feedback"])
        running.stop()
    weights = running.state / "adapters" / "default" / "v0001" / "adapter_model.safetensors"
    return {
        "status": job["status"],
        "error": job["error"],
        "sha256": sha256_of(weights) if weights.is_file() else None,
        "plan": (job["result"] or {}).get("plan"),
        "runner": job["spec"].get("runner"),
        "not_there": job["spec"].get("not_there"),
        "feedback": feedback,
        "left": left,
        "was_cut": was_cut,
    }


def _has_ended(running: DaemonUnderTest, job_id: str) -> bool:
    return bool(running.get(f"/jobs/{job_id}")["finished"])


def _left(running: DaemonUnderTest, machine: OtherMachine) -> list[str]:
    """What the other machine still has of the job once it could be asked, and the records of that."""
    records = running.state / "elsewhere"

    def is_gone() -> bool:
        return not machine.personal_files() and not list(records.glob("*.json"))

    if not until(is_gone, GONE_LIMIT_S, 0.2):  # it is asked again in minutes; by the next start, at once
        running.stop()
        running.start(PATH=f"{machine.bin_folder}:{os.environ['PATH']}")
        running.wait_until_healthy(START_LIMIT_S)
        until(is_gone, GONE_LIMIT_S, 0.2)
    return [path.name for path in (*machine.personal_files(), *records.glob("*.json"))]


def _losses(found: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What a cut has cost, in words; nothing if all went on here."""
    losses = []
    if not found["was_cut"]:
        losses.append("the job had ended before it could be cut")
    if found["status"] != here["status"]:
        losses.append(f"the job {found['status']}: {found['error']}")
    if found["sha256"] != here["sha256"]:
        plans = "" if found["plan"] == here["plan"] else f" (plan {found['plan']}, not {here['plan']})"
        losses.append(f"other bytes than those of a job that was never elsewhere{plans}")
    if found["feedback"] != here["feedback"]:
        losses.append(f"{found['feedback']} of {here['feedback']} corrections are left")
    if found["left"]:
        losses.append(f"the other machine still has {', '.join(found['left'])}")
    if not found["not_there"]:
        losses.append("the record does not say that the job went on here")
    return losses


def _there(machine: OtherMachine, name: str) -> list[Path]:
    return [path for path in (machine.cache / "jobs").glob(f"*/{name}") if path.is_file()]


def _phase(machine: OtherMachine, phase: str) -> bool:
    return any(f'"phase": "{phase}"' in path.read_text(errors="replace") for path in _there(machine, "progress.jsonl"))


def _kill_ssh(machine: OtherMachine, running: DaemonUnderTest) -> None:
    """Kill the ssh and rsync of the carrier here."""
    assert running.process is not None
    for carrier in descendants(running.process.pid, CARRIER):
        for one in carrier.children(recursive=True):
            if one.name() in ("ssh", "rsync"):
                one.kill()


CUTS: Mapping[str, tuple[Aim, Cut]] = {
    "while it is taken there": (
        lambda machine, folder: bool(_there(machine, "*.jsonl")),
        lambda machine, _: machine.cut(),
    ),
    "before a checkpoint is back": (lambda machine, folder: _phase(machine, "training"), _kill_ssh),
    "after a checkpoint is back": (
        lambda machine, folder: any(folder.glob("checkpoint-*")),
        lambda machine, _: machine.stop(),
    ),
    "while it is judged": (lambda machine, folder: _phase(machine, "judging"), lambda machine, _: machine.crash()),
    "while it is brought back": (
        lambda machine, folder: bool(_there(machine, "result.json")),
        lambda machine, _: machine.cut(),
    ),
}
