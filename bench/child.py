"""Child processes: what is measured, or would take memory in the process that measures, runs in one of its own.

`python -m bench.child FUNCTION ARGUMENTS` calls a function by its full name and prints its value; both as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lars_agent.errors import LarsError, last_line
from service.worker.process import DEFAULT_COMMAND, LOG_NAME, worker_environment


def call(function: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """The value of a function of JSON values, called in a process of its own. Raises LarsError."""
    command = [sys.executable, "-m", "bench.child", function, json.dumps(arguments, default=str)]
    return json.loads(run(command, function, environment))


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


if __name__ == "__main__":
    module, _, name = sys.argv[1].rpartition(".")
    try:
        print(json.dumps(getattr(import_module(module), name)(*json.loads(sys.argv[2]))), flush=True)
    except LarsError as error:
        sys.exit(str(error))
    os._exit(0)  # whatever threads there are
