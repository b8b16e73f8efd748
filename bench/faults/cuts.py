"""Power cuts: the disk at one moment, mounted elsewhere, under feedback and cycles that go on.

The data folder lies on a small ext4 image. For a cut every process of the daemon is suspended and the image copied:
unflushed data is not in it. The control is the same daemon under `eatmydata`, which makes every flush do nothing: it
has to lose feedback, else the cuts would prove nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.daemon import START_LIMIT_S
from bench.faults.clients import Clients, within
from bench.faults.mounts import loop, make_image
from bench.faults.scenario import Scenario
from bench.faults.state import DATABASE, Audit, has_begun, jobs, measured, phase
from examples.running import SERVE
from lars_agent.errors import LarsError

IMAGE_BYTES = 96 * 2**20
PAUSE_S = (0.2, 3.0)  # between two cuts
AIMS = (None, "training", None, "judging", None, "publishing")  # in turn
AIM_LIMIT_S, SOON_S = 30.0, 0.3
RESTART_EVERY = 8  # cuts: a daemon is started on what it left
CONTROL = ("eatmydata", *SERVE)
CONTROL_SHARE = 0.4  # of the cuts
LATER = 13  # eras: far from those before the cut


def cuts(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """Findings of `count` cuts, and of fewer of the control."""
    if shutil.which(CONTROL[0]) is None:
        raise LarsError("the control needs eatmydata; run: apt-get install eatmydata")
    return {
        "flushing": cut_repeatedly(tiny, count, random.Random(seed), SERVE),
        "control": cut_repeatedly(tiny, max(3, round(CONTROL_SHARE * count)), random.Random(seed), CONTROL),
    }


def cut_repeatedly(tiny: Path, count: int, rng: random.Random, command: Sequence[str]) -> dict[str, Any]:
    """Cut the power of one daemon, started by `command`, again and again."""
    found: dict[str, Any] = {"cuts": [], "restarts": 0, "unsound": []}
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as name:
        folder = Path(name)
        make_image(folder / "disk.img", IMAGE_BYTES)
        with loop(folder / "disk.img", folder / "disk"), Scenario(folder, tiny, "disk/state") as scenario:
            scenario.daemon.start(command)
            scenario.daemon.wait_until_healthy(START_LIMIT_S)
            os.sync()  # also the control has a database to lose something of
            with scenario.clients("cuts") as clients:
                for number in range(count):
                    _wait(scenario.state, AIMS[number % len(AIMS)], rng)
                    promised, before = _cut(scenario, clients)
                    found["cuts"].append({"phase": before, **_audit(folder, promised)})
                    if command is SERVE and number % RESTART_EVERY == 0:
                        _restart(folder, tiny)
                        found["restarts"] += 1
            acknowledged = len(clients.ledger.acknowledged)
    return found | {"acknowledged": acknowledged, "phases": dict(Counter(cut["phase"] for cut in found["cuts"]))}


def _wait(state: Path, aim: str | None, rng: random.Random) -> None:
    """Wait for the moment of the next cut: any, or one soon after a phase of the cycle began."""
    going, known = within(AIM_LIMIT_S), measured(state)
    while aim is not None and not has_begun(state, aim, known) and going():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, SOON_S) if aim else rng.uniform(*PAUSE_S))


def _cut(scenario: Scenario, clients: Clients) -> tuple[dict[str, str], str]:
    """Copy the disk at one moment; return what clients had been promised by then, and the phase of the cycle."""
    with scenario.daemon.suspended():
        promised = dict(clients.ledger.acknowledged)
        shutil.copyfile(scenario.folder / "disk.img", scenario.folder / "copy.img")
        return promised, phase(scenario.state, next(reversed(jobs(scenario.state)), None), healthy=True)


def _audit(folder: Path, promised: dict[str, str]) -> dict[str, Any]:
    """Audit the disk after the cut."""
    with loop(folder / "copy.img", folder / "copy") as disk:
        if not (disk / "state" / DATABASE).exists():
            audit = Audit(len(promised), list(promised), [], [], "no database")
        else:
            audit = Audit.of(disk / "state", promised)
    counts = {"promised": len(promised), "lost": len(audit.lost), "duplicated": len(audit.duplicated)}
    return counts | {"integrity": audit.integrity, "unsound": audit.unsound}


def _restart(folder: Path, tiny: Path) -> None:
    """Start a daemon on what the cut left. Raises LarsError unless it learns something more."""
    with (
        loop(folder / "copy.img", folder / "copy"),
        Scenario(folder, tiny, "copy/state", "restarted.log") as scenario,
    ):
        scenario.learn(scenario.clients("after", first_era=LATER), "after a power cut the next cycle")
