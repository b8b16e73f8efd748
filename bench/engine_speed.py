"""Runs of `bench.engine_run`: adapters' cost and warm prefixes, by precision and threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lars_agent.errors import LarsError
from lars_agent.memory.allocator import thrifty_environment

RUNS = (("int4", 2), ("bfloat16", 2))


def engine_speeds(model: Path) -> list[dict[str, Any]]:
    """One record for each of `RUNS`."""
    return [{"dtype": dtype, "threads": threads, **_run(model, dtype, threads)} for dtype, threads in RUNS]


def _run(model: Path, dtype: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "bench.engine_run", str(model), dtype, str(threads)]
    environment = {**thrifty_environment(os.environ), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LarsError(f"bench.engine_run failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
