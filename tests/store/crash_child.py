"""Runs one store action again and again, each time in a process that kills itself one step later than the last.

    python -m tests.store.crash_child ACTION CANDIDATE ROOT...

The n-th ROOT is used by a process that is killed right before the n-th step that touches the disk. Prints, for each
ROOT, the name of the step before which its process was killed, or "finished" where there was no such step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from lars_agent.store import AdapterStore
from tests.store.make import make_draft

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "fcntl.flock")


def run(action: str, candidate: Path, root: Path) -> None:
    store = AdapterStore(root)
    if action == "publish":
        store.publish("alice", candidate, make_draft(1))
    elif action == "activate":
        store.activate("alice", 2)
    else:
        store.remove("alice", 2)


def kill_before(step: int, report: int) -> None:
    """This process is killed before its `step`-th step, whose name it writes to the descriptor `report`."""
    seen, fsync = 0, os.fsync

    def count(event: str) -> None:
        nonlocal seen
        if seen == step:
            os.write(report, event.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS:
            name = arguments[0] if isinstance(arguments[0], str | os.PathLike) else ""
            count(f"{event} {Path(name).name}")

    def counted_fsync(descriptor: int) -> None:
        count(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")  # noqa: PTH115 - Path would open
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def crash(action: str, candidate: Path, root: Path, step: int) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        kill_before(step, writer)
        run(action, candidate, root)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        name = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (status, bool(name)) in {(0, False), (-signal.SIGKILL, True)}, (status, name)
    return name or "finished"


if __name__ == "__main__":
    action, candidate, *roots = sys.argv[1:]
    for step, root in enumerate(roots):
        print(crash(action, Path(candidate), Path(root), step))  # noqa: T201
