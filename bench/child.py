"""Child processes: what is measured, or would take memory in the process that measures, runs in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lars_agent.errors import LarsError, last_line
from service.worker.process import DEFAULT_COMMAND, LOG_NAME, worker_environment


def run_module(module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Run `python -m MODULE ARGUMENTS`; return the last line that it printed. Raises LarsError."""
    return run([sys.executable, "-m", module, *map(str, arguments)], module, environment)


def run(command: Sequence[str], name: str, environment: Mapping[str, str] | None = None, hint: str = "") -> str:
    """Run a command; return the last line that it printed.

    Raises LarsError with the name, the last line on stderr and the hint where it fails or is not installed.
    """
    end = f"; {hint}" if hint else ""
    try:
        done = subprocess.run(command, env=environment or os.environ, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LarsError(f"{command[0]} is not installed{end}") from None
    if done.returncode:
        raise LarsError(f"{name} failed: {last_line(done.stderr)}{end}")
    return last_line(done.stdout)


@contextmanager
def training_worker(folder: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker on the job directory, its output in a log there; killed at the end of the block."""
    command = [*DEFAULT_COMMAND, str(folder)]
    with (folder / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(
            command, env=worker_environment(threads), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def worker_message(folder: Path) -> str:
    """The last line that the job's workers have written."""
    return last_line((folder / LOG_NAME).read_text(encoding="utf-8", errors="replace"))
