"""`lars-agent bench`: the benchmarks, a program of their own that is installed beside this one."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from lars_agent.errors import LarsError

PROGRAM = "bench"
COMMAND_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def bench(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
    """Measure memory and speed against PEFT, and print the figures (`lars-agent bench --help`).

    It takes this process's place: what it measures must not share this one's memory.
    """
    if find_spec(PROGRAM) is None:
        raise LarsError("the benchmarks are not installed; run: pip install 'lars-agent[bench]'")
    os.execv(sys.executable, [sys.executable, "-P", "-m", PROGRAM, *(arguments or [])])
