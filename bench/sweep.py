"""Cells measured one after the other, each once: what is in the cells file is not measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.cell_process import measure
from bench.cells_file import FAILED, CellsFile
from bench.methods import usual
from bench.ready_model import ready_model

MB = 10**6
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """Where cells are kept, where models lie, and how long one may take. `fresh` measures all of them again, `retry`
    those that failed.
    """

    cells: CellsFile
    models: Path
    time_limit_s: float
    fresh: bool = False
    retry: bool = False

    def run(self, wanted: Sequence[Cell], tell: Tell) -> None:
        """Every wanted cell has a record. Raises LarsError where a model cannot be had."""
        folders: dict[tuple[str, str, str], Path] = {}
        due = self._due(wanted)
        for number, cell in enumerate(due, start=1):
            asked = (cell.model, cell.dtype, cell.device)
            if asked not in folders:
                folders[asked] = ready_model(*asked, self.models)
            record = measure(cell, folders[asked], self.time_limit_s)
            self.cells.append(record)
            tell(f"{number:3}/{len(due)} {line(record)}")

    def _due(self, wanted: Sequence[Cell]) -> list[Cell]:
        known = {} if self.fresh else self.cells.newest()
        return [cell for cell in wanted if self._is_due(known.get(cell.key))]

    def _is_due(self, record: dict[str, Any] | None) -> bool:
        return record is None or (self.retry and FAILED in record)


def grid(methods: Sequence[str], contexts: Sequence[int], dtypes: Sequence[str], **more: Any) -> Iterator[Cell]:
    """Every method at every context in every dtype, as its users run it; the cheapest first."""
    for context in sorted(contexts):
        for dtype in dtypes:
            for method in methods:
                yield usual(method, context, dtype, **more)


def line(record: dict[str, Any]) -> str:
    """A measured cell for people."""
    name = f"{record['model']} {record['method']} {record['context']:,} {record['dtype']} {record['allocator']}"
    if FAILED in record:
        return f"{name:64} {record[FAILED]}"
    above = record["peak_bytes"] - record["loaded_bytes"]
    figures = f"{record['peak_bytes'] / MB:7,.0f} MB, {above / MB:7,.0f} above the model"
    return f"{name:64} {figures}, {record['seconds']:7.2f} s"
