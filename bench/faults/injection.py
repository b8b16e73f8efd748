"""A daemon, or its worker, with one fault built in: `python -m bench.faults.injection serve`, or `JOB_DIR`.

The environment holds the fault, as JSON. Either the daemon kills itself (SIGKILL) right before the n-th step that its
cycle takes on the disk from publishing on, or the disk becomes full right before a certain write.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

VARIABLE = "BENCH_FAULT"
WORKER = (sys.executable, "-m", "bench.faults.injection")
FAULTY = (*WORKER, "serve")
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "fcntl.flock")
RANDOM = re.compile(r"(?<=\.publish-)\w+|(?<=\.)[0-9a-f]{12}(?=\.tmp)")  # in a file's name
PIECES_BYTES = (2**16, 2**12, 1)


@dataclass(frozen=True)
class Fault:
    """The fault of a process.

    Attributes:
        report: the file that gets the step before which it happened; without a fault, all steps, a line each.
        kill_before: how many steps are taken before the daemon dies; None is all.
        fill_at: the write before which the disk becomes full: `file <regular expression of the path in the data
            folder>`, or `database <table> <field that is written, or add>`.
        filler: the file that takes what room is left.
    """

    report: str
    kill_before: int | None = None
    fill_at: str = ""
    filler: str = ""


def install_kill(fault: Fault) -> None:
    """Kill the process right before a step of the thread that publishes, counted from the cycle's `publish` on.

    Steps are file operations, flushes, commits and calls of the engine.
    """
    from sqlalchemy import Engine, event

    from service.cycle import cycle
    from service.serving.engine_client import EngineClient

    report = os.open(fault.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    thread, steps = threading.local(), itertools.count()

    def count(name: str) -> None:
        if not getattr(thread, "publishes", False):
            return
        number = next(steps)
        if fault.kill_before in (None, number):
            os.write(report, f"{RANDOM.sub('*', name).strip()}\n".encode())
        if number == fault.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(*arguments: Any, **options: Any) -> None:
        thread.publishes = True
        count("publish")

    def flush(descriptor: int) -> None:
        count(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")  # noqa: PTH115 - Path would open

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in STEPS and getattr(thread, "publishes", False):
            path = arguments[0] if isinstance(arguments[0], str | os.PathLike) else ""
            count(f"{name} {Path(path).name}")

    before(cycle, "publish", begin)
    before(os, "fsync", flush)
    for name in ("prepare", "swap"):
        before(EngineClient, name, lambda *arguments, name=name, **options: count(f"engine {name}"))
    event.listen(Engine, "commit", lambda connection: count("commit"))
    sys.addaudithook(audit)


def before(owner: Any, name: str, hook: Callable[..., None]) -> None:
    """Call `hook` with the same arguments before each call of the function."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def hooked(*arguments: Any, **options: Any) -> Any:
        hook(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, hooked)


def fill_up(filler: Path) -> None:
    """Take all the room that is left on the disk of the file `filler`."""
    with filler.open("ab", buffering=0) as file:
        for size in PIECES_BYTES:
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def install_filling(fault: Fault, data_dir: Path) -> None:
    """Fill the disk right before the first write that the fault names, in any process with the same report."""
    kind, _, what = fault.fill_at.partition(" ")
    report, lock = Path(fault.report), threading.Lock()

    def fill() -> None:
        with lock:
            if not report.exists():
                report.write_text(what, encoding="utf-8")
                fill_up(Path(fault.filler))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            path, writes = Path(arguments[0]), arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and path.is_relative_to(data_dir) and re.fullmatch(what, str(path.relative_to(data_dir))):
                fill()

    def hook(*arguments: Any, **changes: Any) -> None:
        if field == "add" or field in changes:
            fill()

    if kind == "file":
        sys.addaudithook(audit)
        return
    table, field = what.split(" ")
    owner = getattr(import_module(f"service.db.{table}"), table.capitalize())
    before(owner, "add" if field == "add" else "update", hook)


def main(argument: str) -> int:
    """Run the daemon, or the worker on its job directory, with the fault; return the exit status."""
    fault = Fault(**json.loads(os.environ[VARIABLE]))
    data_dir = Path(os.environ["LARS_AGENT_DATA_DIR"])
    if argument != "serve":
        from lars_agent.training.worker import main as work

        if fault.fill_at.startswith("file "):
            install_filling(fault, data_dir)
        return work([argument])
    if not fault.fill_at:
        install_kill(fault)
    else:
        from service import server
        from service.app import create_app

        install_filling(fault, data_dir)
        server.create_app = functools.partial(create_app, worker_command=WORKER)  # type: ignore[assignment]
    from service.cli.main import main as serve

    serve(["serve"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
