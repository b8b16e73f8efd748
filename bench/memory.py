"""How much memory and time a training step takes: `lars-agent bench memory`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import record
from bench.cell import Cell
from bench.cells_file import CellsFile
from bench.memory_plot import draw
from bench.memory_rows import memory_rows
from bench.planner_rows import planner_rows
from bench.planner_store import planner_records
from bench.report import lines
from bench.sweep import Sweep, Tell

AREA = "memory"
COMMAND = "lars-agent bench memory --goals"


def measure_cells(sweep: Sweep, wanted: Sequence[Cell], out: Path, tell: Tell) -> None:
    """Every wanted cell is measured, and what is made of all cells so far lies in `out`: rows and plots."""
    sweep.run(wanted, tell)
    written, rows = write_memory(out)
    for text in lines({AREA: rows}):
        tell(text)
    tell(f"written: {', '.join(str(path) for path in written)}")


def write_memory(out: Path) -> tuple[list[Path], list[dict[str, object]]]:
    """memory.json and the plots in `out`, from the cells that are there; their paths, and the rows."""
    cells = CellsFile(out)
    rows = [*memory_rows(cells.newest()), *planner_rows(planner_records(out))]
    plots = draw(list(cells.newest().values()), out)
    path = record.write(AREA, COMMAND, rows, out, cells=cells.path.name, plots=[plot.name for plot in plots])
    return [path, *plots], rows
