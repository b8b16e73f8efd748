"""Power cuts: the disk as it is at one moment, mounted elsewhere, under feedback and cycles that go on.

The data folder lies on a small ext4 image. For a cut every process of the daemon is stopped and the image copied: what
has not been flushed is not in it. The control is the same daemon with `eatmydata`, which makes every flush do nothing:
it has to lose feedback, else the cuts would prove nothing.
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

from bench.faults_clients import Clients, learned
from bench.faults_daemon import SERVE, Victim, new_state, quick
from bench.faults_ledger import account, integrity, stored_feedback
from bench.faults_state import DATABASE, faults, has_begun, jobs, measured, phase
from bench.mounts import loop, make_image
from lars_agent.errors import LarsError

IMAGE_BYTES = 96 * 2**20
PAUSE_S = (0.2, 3.0)  # between two cuts
AIMS = (None, "training", None, "judging", None, "publishing")  # in turn
AIM_LIMIT_S, SOON_S = 30.0, 0.3
RESTART_EVERY = 8  # cuts: a daemon is started on what it left
CONTROL = ("eatmydata", *SERVE)
CONTROL_SHARE = 0.4  # of the cuts
CYCLE_LIMIT_S = 180.0
LATER = 13  # eras: far from those before the cut


def cuts(tiny: Path, count: int, seed: int) -> dict[str, Any]:
    """What `count` cuts left, and what those of the control did."""
    if shutil.which(CONTROL[0]) is None:
        raise LarsError("the control needs eatmydata; run: apt-get install eatmydata")
    return {
        "flushing": _cuts(tiny, count, random.Random(seed), SERVE),
        "control": _cuts(tiny, max(3, round(CONTROL_SHARE * count)), random.Random(seed), CONTROL),
    }


def _cuts(tiny: Path, count: int, dice: random.Random, command: Sequence[str]) -> dict[str, Any]:
    """The cuts of one daemon."""
    found: dict[str, Any] = {"cuts": [], "restarts": 0, "unsound": [], "acknowledged": 0}
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as name:
        folder = Path(name)
        image = folder / "disk.img"
        make_image(image, IMAGE_BYTES)
        with loop(image, folder / "disk") as disk:
            state = new_state(disk / "state", tiny)
            with Victim(state, folder / "daemon.log", quick(tiny)) as victim:
                victim.start(command)
                victim.wait_healthy()
                os.sync()  # also the control has a database to lose something of
                with Clients(victim.url, "cuts") as clients:
                    for number in range(count):
                        _wait(state, AIMS[number % len(AIMS)], dice)
                        promised, before = _cut(victim, clients, image, folder / "copy.img")
                        found["cuts"].append({"phase": before, **_left(folder, promised)})
                        if command is SERVE and number % RESTART_EVERY == 0:
                            found["restarts"] += _restarted(folder, tiny)
                found["acknowledged"] = len(clients.ledger.acknowledged())
    return found | {"phases": dict(Counter(cut["phase"] for cut in found["cuts"]))}


def _wait(state: Path, aim: str | None, dice: random.Random) -> None:
    """The next cut's moment has come: any, or one soon after a phase of the cycle began."""
    until, known = time.monotonic() + AIM_LIMIT_S, measured(state)
    while aim is not None and not has_begun(state, aim, known) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(dice.uniform(0, SOON_S) if aim else dice.uniform(*PAUSE_S))


def _cut(victim: Victim, clients: Clients, image: Path, copy: Path) -> tuple[dict[str, str], str]:
    """`copy` is the disk as it was at one moment; what clients had been promised by then, and where the cycle stood."""
    with victim.frozen():
        promised = clients.ledger.acknowledged()
        shutil.copyfile(image, copy)
        known = jobs(victim.state)
        return promised, phase(victim.state, known[-1] if known else None, healthy=True)


def _left(folder: Path, promised: dict[str, str]) -> dict[str, Any]:
    """What is found on the disk after the cut."""
    with loop(folder / "copy.img", folder / "copy") as disk:
        state = disk / "state"
        found: dict[str, Any] = {"promised": len(promised), "integrity": "no database"}
        if not (state / DATABASE).exists():
            return found | {"lost": len(promised), "duplicated": 0, "unsound": []}
        found["integrity"] = integrity(state / DATABASE)
        books = account(promised, stored_feedback(state / DATABASE))
        return found | {"lost": len(books.lost), "duplicated": len(books.duplicated), "unsound": faults(state)}


def _restarted(folder: Path, tiny: Path) -> int:
    """1 if a daemon started on what the cut left, ended the job that had been running, and learned something more."""
    with (
        loop(folder / "copy.img", folder / "copy") as disk,
        Victim(disk / "state", folder / "restarted.log", quick(tiny)) as victim,
    ):
        victim.forgive()
        victim.start()
        victim.wait_healthy()
        clients = Clients(victim.url, "after", first_era=LATER)
        learned(victim, clients, CYCLE_LIMIT_S, "after a power cut the next cycle")
        return 1
