"""Cells measured one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.memory.cell import Cell, usual
from bench.memory.goals import memory_rows
from bench.memory.process import measure
from bench.models import ready_model
from bench.plots import plot_memory
from bench.suite import FAILED, Newest, Record, Store

MB = 10**6


def memory_runs(cells: Iterable[Cell], models: Path, time_limit_s: float) -> dict[str, Callable[[], Record]]:
    """The run of each cell by its key. Raises LarsError where a model cannot be had."""
    ready = cache(partial(ready_model, models=models))  # each model is made ready once

    def run(cell: Cell) -> Record:
        return measure(cell, ready(cell.model, cell.dtype, cell.device), time_limit_s)

    return {cell.key: partial(run, cell) for cell in cells}


def grid(methods: Sequence[str], contexts: Sequence[int], dtypes: Sequence[str], **more: Any) -> Iterator[Cell]:
    """Yield every method at every context in every dtype, as its users run it; the cheapest first."""
    for context in sorted(contexts):
        for dtype in dtypes:
            for method in methods:
                yield usual(method, context, dtype, **more)


def describe(record: Record) -> str:
    """A measured cell as a line for the terminal."""
    name = f"{record['model']} {record['method']} {record['context']:,} {record['dtype']} {record['allocator']}"
    if FAILED in record:
        return f"{name:64} {record[FAILED]}"
    above = record["peak_bytes"] - record["loaded_bytes"]
    figures = f"{record['peak_bytes'] / MB:7,.0f} MB, {above / MB:7,.0f} above the model"
    return f"{name:64} {figures}, {record['seconds']:7.2f} s"


def key_of(record: Mapping[str, Any]) -> str:
    """The key of the record's cell."""
    return Cell.from_record(record).key


def _plots(newest: Newest, folder: Path) -> list[Path]:
    return plot_memory(list(newest.values()), folder)


CELLS = Store("memory-cells.jsonl", key_of, memory_rows, _plots, describe)
