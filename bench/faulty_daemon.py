"""A daemon with one fault built in: `python -m bench.faulty_daemon`, in the place of `python -m service serve`.

What the fault is stands in the environment, as the JSON of a `Fault`. It kills itself (SIGKILL) right before the n-th
step that its cycle takes on the disk from publishing on; or the disk becomes full right before a certain write.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.faults_filling import fill_at_write, fill_once

VARIABLE = "BENCH_FAULT"
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "fcntl.flock")
RANDOM = re.compile(r"(?<=\.publish-)\w+|(?<=\.)[0-9a-f]{12}(?=\.tmp)")  # in a file's name
WORKER = (sys.executable, "-m", "bench.faulty_worker")


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        report: the file that says before which step it happened; without a fault, all steps, a line each.
        kill_before: how many steps are taken before the daemon dies; None is all.
        fill_at: the write before which the disk becomes full: `file <regular expression of the path in the data
            folder>`, or `database <table> <field that is written, or add>`.
        filler: the file that takes what room is left.
    """

    report: str
    kill_before: int | None = None
    fill_at: str | None = None
    filler: str | None = None

    def environment(self) -> dict[str, str]:
        """What tells a process of it."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def told(cls) -> Fault:
        """The fault of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))


class Steps:
    """Counts what the thread that calls `begin` does from then on, and kills the process before a certain step."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._report = os.open(fault.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._thread: int | None = None
        self._seen = 0

    def begin(self) -> None:
        """This thread's steps count."""
        self._thread = threading.get_ident()
        self.count("publish")

    def count(self, name: str) -> None:
        """One more step is about to be taken."""
        if threading.get_ident() != self._thread:
            return
        if self._fault.kill_before in (None, self._seen):
            os.write(self._report, f"{RANDOM.sub('*', name).strip()}\n".encode())
        if self._seen == self._fault.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self._seen += 1

    def install(self) -> None:
        """Files, folders, flushes, commits, and what the engine is told are steps; the cycle's `publish` begins."""
        from sqlalchemy import Engine, event

        from service import cycle as patched
        from service.serving.engine_client import EngineClient

        cycle: Any = patched
        system: Any = os
        publish, fsync = cycle.publish, os.fsync

        def counted_publish(*arguments: Any) -> Any:
            self.begin()
            return publish(*arguments)

        def counted_fsync(descriptor: int) -> None:
            self.count(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")  # noqa: PTH115 - Path would open
            fsync(descriptor)

        cycle.publish, system.fsync = counted_publish, counted_fsync
        for name in ("prepare", "swap"):
            setattr(EngineClient, name, self._counted(f"engine {name}", getattr(EngineClient, name)))
        event.listen(Engine, "commit", lambda connection: self.count("commit"))
        sys.addaudithook(self._hear)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count(name)
            return function(*arguments, **options)

        return counted

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS and threading.get_ident() == self._thread:
            name = arguments[0] if isinstance(arguments[0], str | os.PathLike) else ""
            self.count(f"{event} {Path(name).name}")


def install_filling(fault: Fault, data_dir: Path) -> None:
    """The disk becomes full right before the write that `fault` names, in this process or in its worker."""
    assert fault.fill_at is not None
    kind, _, what = fault.fill_at.partition(" ")
    fill = fill_once(Path(fault.filler or ""), Path(fault.report), what)
    if kind == "file":
        fill_at_write(data_dir, what, fill)
    else:
        table, field = what.split(" ")
        _fill_at_row(table, field, fill)
    from service import server as patched
    from service.app import create_app

    server: Any = patched
    server.create_app = functools.partial(create_app, worker_command=WORKER)


def _fill_at_row(table: str, field: str, fill: Callable[[], None]) -> None:
    """Before a row of the table is added, or the field of one is written, the disk becomes full."""
    from service.db import feedback, interactions, jobs

    owner: Any = {"feedback": feedback.Feedback, "interactions": interactions.Interactions, "jobs": jobs.Jobs}[table]
    method = "add" if field == "add" else "update"
    original = getattr(owner, method)

    @functools.wraps(original)
    def filling(*arguments: Any, **changes: Any) -> Any:
        if field == "add" or field in changes:
            fill()
        return original(*arguments, **changes)

    setattr(owner, method, filling)


def main() -> None:
    """The daemon, until it dies or is ended."""
    fault = Fault.told()
    if fault.fill_at is None:
        Steps(fault).install()
    else:
        install_filling(fault, Path(os.environ["LARS_AGENT_DATA_DIR"]))
    from service.cli.main import main as serve

    serve(["serve"])


if __name__ == "__main__":
    main()
