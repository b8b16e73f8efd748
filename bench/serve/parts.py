"""The parts of `python -m bench serve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.serve.live import feedback_latency, swaps, throughput, unloaded
from bench.serve.rows import serve_plots, serve_rows
from bench.serve.speed import engine_runs, speed_runs
from bench.suite import Record, Tell, part, parts_store

SERVED_DTYPES = ("bfloat16", "int4")
SWAPS, SWAPS_DTYPE = 200, "int4"  # whose products are the same for one row and for several, to the last bit


@dataclass(frozen=True)
class ServeSettings:
    """The model's folder, the folder of downloads, and how often paired runs are repeated."""

    model: Path
    cache: Path
    rounds: int


PARTS: Mapping[str, Callable[[ServeSettings], Any]] = {
    "speed": lambda settings: speed_runs(settings.model, settings.cache, settings.rounds),
    "engine": lambda settings: engine_runs(settings.model),
    "clients": lambda settings: [throughput(settings.model, dtype) for dtype in SERVED_DTYPES],
    "swaps": lambda settings: swaps(settings.model, SWAPS_DTYPE, SWAPS),
    "feedback": lambda settings: feedback_latency(settings.model),
    "asleep": lambda settings: unloaded(settings.model),
}
RUNS = parts_store("serve-runs.jsonl", serve_rows, serve_plots)


def serve_runs(names: Sequence[str], settings: ServeSettings, tell: Tell) -> dict[str, Callable[[], Record]]:
    """The run of each part."""
    return {name: part(name, partial(PARTS[name], settings), tell) for name in names}
