"""Child processes: what is measured, or would take memory in the process that measures, runs in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from lars_agent.errors import LarsError


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
        raise LarsError(f"{name} failed: {_last_line(done.stderr) or 'no output'}{end}")
    return _last_line(done.stdout)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
