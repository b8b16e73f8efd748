"""Runs of `bench.engine_run`: adapters' cost and warm prefixes, by precision and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.speed import figures_of

RUNS = (("int4", 2), ("bfloat16", 2))


def engine_speeds(model: Path) -> list[dict[str, Any]]:
    """One record for each of `RUNS`. Raises LarsError."""
    return [
        {"dtype": dtype, "threads": threads, **figures_of("bench.engine_run", [str(model), dtype], threads)}
        for dtype, threads in RUNS
    ]
