"""What survives: `lars-agent bench faults`. Each part's findings are kept; rows are made of the newest of each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record
from bench.cells_file import JsonLines
from bench.faults_cuts import cuts
from bench.faults_disk import POINTS, disk
from bench.faults_kills import kills
from bench.faults_latency import latency
from bench.faults_points import points
from bench.faults_resume import resume
from bench.faults_rows import fault_rows
from bench.report import lines
from bench.serve import circumstances
from bench.tiny_model import installed_tiny

AREA = "faults"
COMMAND = "lars-agent bench faults"
FILE_NAME = "faults-runs.jsonl"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Torture:
    """How much of each part, from which seed, and where the real base models lie."""

    seed: int
    kills: int
    points: int
    cuts: int
    disk: int
    models: Path


PARTS: Mapping[str, Callable[[Torture, Path], Any]] = {
    "kills": lambda torture, folder: kills(installed_tiny(folder).parent, torture.kills, torture.seed),
    "points": lambda torture, folder: points(installed_tiny(folder).parent, torture.points, torture.seed),
    "cuts": lambda torture, folder: cuts(installed_tiny(folder).parent, torture.cuts, torture.seed),
    "disk": lambda torture, folder: disk(installed_tiny(folder).parent, list(POINTS)[: torture.disk]),
    "resume": lambda torture, folder: resume(torture.models, "default", torture.seed),
    "latency": lambda torture, folder: latency(torture.models, "default", folder),
}


def measure_faults(parts: Sequence[str], torture: Torture, out: Path, tell: Tell) -> None:
    """Every part has been run, and faults.json in `out` is made of the newest run of each part."""
    kept = JsonLines(out / FILE_NAME)
    for part in parts:
        tell(f"running: {part}")
        with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as folder:
            figures = PARTS[part](torture, Path(folder))
        kept.append({"part": part, "seed": torture.seed, "figures": figures, **circumstances()})
    path, rows = write_faults(out)
    for text in lines({AREA: rows}):
        tell(text)
    tell(f"written: {path}")


def write_faults(out: Path) -> tuple[Path, list[dict[str, Any]]]:
    """faults.json in `out`, from the newest findings of each part; its path, and the rows."""
    newest = {line["part"]: line["figures"] for line in JsonLines(out / FILE_NAME).records()}
    rows = fault_rows(newest)
    return record.write(AREA, COMMAND, rows, out, runs=FILE_NAME), rows
