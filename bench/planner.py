"""Whether the planner keeps its word: random jobs run by the real worker. `lars-agent bench planner`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import record
from bench.memory import write_memory
from bench.planner_cell import PlannerCell
from bench.planner_job import run_job
from bench.planner_rows import is_failure, planner_rows
from bench.planner_store import append_planner_record, planner_key, planner_records
from bench.ready_model import ready_model
from bench.report import lines
from bench.sweep import Tell

MIB = 2**20
COSTS_FILE = "costs.json"  # as the daemon keeps it in its state folder


def run_planner(
    cells: Sequence[PlannerCell], models: Path, out: Path, threads: int, time_limit_s: float, tell: Tell
) -> None:
    """Each of the cells has been run, and memory.json in `out` says what came of all there are."""
    for cell in cells:
        folder = ready_model(cell.model, cell.dtype, "cpu", models)
        with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as job:
            found = run_job(cell, folder, Path(job), threads, time_limit_s, models / COSTS_FILE)
        append_planner_record(out, found | {"commit": record.commit(), "when": record.now(), "threads": threads})
        tell(line(found))
    write_memory(out)
    for text in lines({"memory": planner_rows(planner_records(out))}):
        tell(text)


def due(cells: Sequence[PlannerCell], out: Path, *, fresh: bool, retry: bool) -> list[PlannerCell]:
    """The cells that are not in the store yet; all of them if `fresh`, those that failed too if `retry`."""
    known = {planner_key(item): item for item in planner_records(out)}
    missing = [cell for cell in cells if fresh or planner_key(vars(cell)) not in known]
    return [
        *missing,
        *(cell for cell in cells if retry and cell not in missing and is_failure(known[planner_key(vars(cell))])),
    ]


def line(found: dict[str, Any]) -> str:
    """A job for people."""
    name = (
        f"{found['number']:3} {found['model']} {found['dtype']} {found['context']}+{found['reply']} x {found['batch']}"
    )
    name = f"{name:46} of {found['budget_bytes'] / MIB:6,.0f} MiB: "
    if found["status"] != "succeeded":
        return name + (found["error_type"] or found["error"])
    predicted, met = found["predicted_peak_bytes"], found["peak_bytes"]
    return name + f"predicted {predicted / MIB:,.0f}, measured {met / MIB:,.0f} MiB, {predicted / met - 1:+.1%}"
