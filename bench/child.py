"""Child processes: what is measured, or would take memory in the process that measures, runs in one of its own.

`python -m bench.child FUNCTION ARGUMENTS` calls a function by its full name and prints its value; both as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from lars_agent.errors import LarsError, last_line

T = TypeVar("T")


def call(function: str, *arguments: Any, enter: Sequence[str] = (), **options: Any) -> Any:
    """The value of a function of JSON values, called in a process of its own by `run` with the options.

    `enter` is a command that starts the one behind it. Raises LarsError.
    """
    command = [*enter, sys.executable, "-m", "bench.child", function, json.dumps(arguments, default=str)]
    return json.loads(run(command, function, **options))


def run(
    command: Sequence[str],
    name: str,
    environment: Mapping[str, str] | None = None,
    hint: str = "",
    limit_s: float | None = None,
) -> str:
    """Run a command; return the last line that it printed.

    Raises LarsError with the name, the reason and the hint where it fails, takes too long or is not installed.
    """
    end = f"; {hint}" if hint else ""
    try:
        done = subprocess.run(
            command, env=environment or os.environ, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except FileNotFoundError:
        raise LarsError(f"{command[0]} is not installed{end}") from None
    except subprocess.TimeoutExpired:
        raise LarsError(f"{name} was not done after {limit_s:,.0f} seconds{end}") from None
    if done.returncode == -signal.SIGKILL:
        raise LarsError(f"{name} was killed by SIGKILL, which the system sends when memory runs out{end}")
    if done.returncode:
        raise LarsError(f"{name} failed with exit status {done.returncode}: {last_line(done.stderr)}{end}")
    return last_line(done.stdout)


def until(holds: Callable[[], T], limit_s: float, pause_s: float = 0.05) -> T:
    """The first true value of `holds()`, which is called again and again; the last one once `limit_s` have passed."""
    deadline = time.monotonic() + limit_s
    while not (value := holds()) and time.monotonic() < deadline:
        time.sleep(pause_s)
    return value


if __name__ == "__main__":
    module, _, name = sys.argv[1].rpartition(".")
    try:
        print(json.dumps(getattr(import_module(module), name)(*json.loads(sys.argv[2]))), flush=True)
    except LarsError as error:
        sys.exit(str(error))
    os._exit(0)  # whatever threads there are
