"""Power cuts and full disks, with the data folder on a small filesystem of its own; both need root.

A cut is the disk at one moment, mounted elsewhere, under feedback and cycles that go on: every process of the daemon is
suspended and the image copied, without the unflushed data. The control is the same daemon under `eatmydata`, which
makes every flush do nothing: it has to lose feedback, else the cuts would prove nothing.

A disk becomes full right before one write of the cycle after another: a file takes all the room that is left. When the
cycle has ended, or has had its time, the file is removed, and another cycle has to succeed without a restart.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.child import run, until
from bench.faults.clients import CYCLE_LIMIT_S, Clients, within
from bench.faults.injection import fill_up
from bench.faults.scenario import START_LIMIT_S, STOP_LIMIT_S, DaemonUnderTest, FaultSettings
from bench.faults.state import audit, has_begun, jobs, measured, phase
from bench.record import tables
from examples.running import SERVE
from lars_agent.errors import LarsError

IMAGE, COPY, IMAGE_BYTES = "disk.img", "copy.img", 96 * 2**20
PAUSE_S = (0.2, 3.0)  # between two cuts
AIMS = (None, "training", None, "judging", None, "publishing")  # in turn
AIM_LIMIT_S, SOON_S = 30.0, 0.3
RESTART_EVERY = 8  # cuts: a daemon is started on what it left
CONTROL = ("eatmydata", *SERVE)
CONTROL_SHARE = 0.4  # of the cuts
LATER = 13  # eras: far from those before the fault
UNMOUNT_LIMIT_S = 5.0
SIZE_BYTES = 24 * 2**20
FIRE_LIMIT_S, FULL_S = 180.0, 4.0
POST_PAUSE_S = 0.4  # so that each commit needs room: a log that has been long before needs none until it is so again
POINTS: Mapping[str, str] = tables("subjects.toml")["full_disk"]


@contextmanager
def mounted(where: Path, *arguments: str) -> Iterator[None]:
    """Mount a filesystem at `where` within the block. Raises LarsError without root."""
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", *arguments, str(where)], "mount", hint="this part needs root, and a system that lets it mount")
    try:
        yield
    finally:
        unmount = partial(subprocess.call, ["umount", str(where)], stderr=subprocess.DEVNULL)
        # A process that has just been killed may still hold a file for a moment.
        if not until(lambda: unmount() == 0 or not where.is_mount(), UNMOUNT_LIMIT_S, 0.25):
            run(["umount", "--lazy", str(where)], "umount", hint="unmount it by hand")


def cuts(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """Findings of the cuts, and of fewer of the control."""
    if shutil.which(CONTROL[0]) is None:
        raise LarsError("the control needs eatmydata; run: apt-get install eatmydata")
    fewer = max(3, round(CONTROL_SHARE * settings.cuts))
    return {
        "flushing": cut_repeatedly(folder, settings.cuts, random.Random(settings.seed), SERVE),
        "control": cut_repeatedly(folder, fewer, random.Random(settings.seed), CONTROL),
    }


def cut_repeatedly(folder: Path, count: int, rng: random.Random, command: Sequence[str]) -> dict[str, Any]:
    """Cut the power of one daemon, started by `command`, again and again."""
    found: dict[str, Any] = {"cuts": [], "restarts": 0}
    with (folder / IMAGE).open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run(["mkfs.ext4", "-q", "-F", file.name], "mkfs.ext4", hint="run: apt-get install e2fsprogs")
    with mounted(folder / "disk", "-o", "loop", file.name), DaemonUnderTest.quick(folder, "disk/state") as daemon:
        daemon.start(command)
        daemon.wait_until_healthy(START_LIMIT_S)
        os.sync()  # also the control has a database to lose something of
        with Clients(daemon.url, "cuts") as clients:
            for number in range(count):
                _wait(daemon.state, AIMS[number % len(AIMS)], rng)
                with daemon.suspended():
                    promised = dict(clients.acknowledged)
                    shutil.copyfile(folder / IMAGE, folder / COPY)
                    before = phase(daemon.state, next(reversed(jobs(daemon.state)), None), healthy=True)
                restart = command is SERVE and number % RESTART_EVERY == 0
                found["cuts"].append({"phase": before, **_audit(folder, promised, restart=restart)})
                found["restarts"] += restart
        acknowledged = len(clients.acknowledged)
    return found | {"acknowledged": acknowledged, "phases": dict(Counter(cut["phase"] for cut in found["cuts"]))}


def _wait(state: Path, aim: str | None, rng: random.Random) -> None:
    """Wait for the moment of the next cut: any, or one soon after a phase of the cycle began."""
    known = measured(state)
    if aim is not None:
        until(lambda: has_begun(state, aim, known), AIM_LIMIT_S, 0.01)
    time.sleep(rng.uniform(0, SOON_S) if aim else rng.uniform(*PAUSE_S))


def _audit(folder: Path, promised: dict[str, str], *, restart: bool) -> dict[str, Any]:
    """Audit the disk after the cut; with `restart`, start a daemon on it. Raises LarsError unless that learns more."""
    with mounted(folder / "copy", "-o", "loop", str(folder / COPY)):  # ext4 replays its journal
        found = audit(folder / "copy" / "state", promised)
        if restart:
            with DaemonUnderTest.quick(folder, "copy/state") as daemon:
                daemon.learn(Clients(daemon.url, "after", first_era=LATER), "after a power cut the next cycle")
    counts = {"promised": len(promised), "lost": len(found["lost"]), "duplicated": len(found["duplicated"])}
    return counts | {"integrity": found["integrity"], "unsound": found["unsound"]}


def disk(settings: FaultSettings, folder: Path) -> dict[str, Any]:
    """Findings at each point, every one beginning from a data folder with one version in use."""
    with DaemonUnderTest.quick(folder, "kept") as daemon:
        daemon.learn(Clients(daemon.url, "before"), "the first cycle")
        daemon.stop(STOP_LIMIT_S)
    return {"points": [_point(folder, name) for name in list(POINTS)[: settings.disk]]}


def _point(folder: Path, name: str) -> dict[str, Any]:
    """Findings with a disk that is full from that write on."""
    filler = folder / "disk" / "filler"
    with mounted(folder / "disk", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs"):
        shutil.copytree(folder / "kept", folder / "disk" / "state", symlinks=True)
        with DaemonUnderTest.quick(folder, "disk/state") as daemon:
            daemon.start_faulty(fill_at=POINTS[name], filler=str(filler))
            daemon.wait_until_healthy(START_LIMIT_S)
            with Clients(daemon.url, f"disk-{name}", first_era=LATER, post_pause_s=POST_PAUSE_S) as clients:
                found = {"name": name, **_while_full(daemon, filler, name)}
                known = {job.id for job in daemon.jobs() or []}
                filler.unlink(missing_ok=True)
                found |= _afterwards(daemon, known)
                clients.enough.set()
            daemon.stop(STOP_LIMIT_S)
        found |= audit(daemon.state, clients.acknowledged)
        return found | {"said": clients.errors(), "jobs": [f"{job.status}: {job.error}" for job in jobs(daemon.state)]}


def _while_full(daemon: DaemonUnderTest, filler: Path, name: str) -> dict[str, Any]:
    """Wait until the disk becomes full, keep it full for a while, and record what the daemon does then."""
    if not until(daemon.report.exists, FIRE_LIMIT_S, 0.02):
        raise LarsError(f"the disk did not become full at {name!r}: {daemon.log_tail()}")
    going = within(FULL_S)
    while going():  # what others free is taken at once, as by a program that goes on writing
        fill_up(filler)
        time.sleep(0.02)
    return {"reply_while_full": daemon.ask().status}


def _afterwards(daemon: DaemonUnderTest, known: set[str]) -> dict[str, Any]:
    """Ask for a reply once there is room again, and wait for a cycle that began since; record how long that took."""
    answer, started = daemon.ask(), time.monotonic()
    ended = until(lambda: [job for job in daemon.jobs() or [] if job.is_over and job.id not in known], CYCLE_LIMIT_S)
    following = ended[-1].status if ended else "none"
    seconds = round(time.monotonic() - started, 1)
    return {"reply_after": answer.status, "next": following, "next_s": seconds}
