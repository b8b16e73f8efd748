"""The parts of `python -m bench faults`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults.cuts import cuts
from bench.faults.disk import POINTS, disk
from bench.faults.kills import kills
from bench.faults.latency import latency
from bench.faults.points import points
from bench.faults.resume import resume
from bench.faults.rows import fault_rows
from bench.models import TINY, ready_model
from bench.suite import Record, Tell, part, parts_store


@dataclass(frozen=True)
class FaultSettings:
    """How much of each part, from which seed, and the folder of the real base models."""

    seed: int
    kills: int
    points: int
    cuts: int
    disk: int
    models: Path


def _tiny(folder: Path) -> Path:
    return ready_model(TINY, "float32", "cpu", folder / "models")


PARTS: Mapping[str, Callable[[FaultSettings, Path], Any]] = {
    "kills": lambda settings, folder: kills(_tiny(folder), settings.kills, settings.seed),
    "points": lambda settings, folder: points(_tiny(folder), settings.points, settings.seed),
    "cuts": lambda settings, folder: cuts(_tiny(folder), settings.cuts, settings.seed),
    "disk": lambda settings, folder: disk(_tiny(folder), list(POINTS)[: settings.disk]),
    "resume": lambda settings, folder: resume(settings.models, "default", settings.seed),
    "latency": lambda settings, folder: latency(settings.models, "default", folder),
}
REAL_MODEL_PARTS = {"resume", "latency"}
RUNS = parts_store("faults-runs.jsonl", fault_rows)


def fault_runs(names: Sequence[str], settings: FaultSettings, tell: Tell) -> dict[str, Callable[[], Record]]:
    """The run of each part, in a scratch folder. Raises LarsError where the real model cannot be had."""
    if REAL_MODEL_PARTS & set(names):
        ready_model("default", "bfloat16", "cpu", settings.models)

    def measure(name: str) -> Any:
        with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
            return PARTS[name](settings, Path(folder))

    return {name: part(name, lambda name=name: measure(name), tell, seed=settings.seed) for name in names}
