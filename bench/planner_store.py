"""The planner bench's cells, one JSON line each, only ever appended to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cells_file import JsonLines

FILE_NAME = "planner-cells.jsonl"
KEY = ("seed", "number", "model", "dtype", "context", "reply", "batch", "budget_bytes")


def planner_records(folder: Path) -> list[dict[str, Any]]:
    """The newest record of each cell."""
    records = JsonLines(folder / FILE_NAME).records()
    return list({planner_key(record): record for record in records}.values())


def planner_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in KEY)


def append_planner_record(folder: Path, record: Mapping[str, Any]) -> None:
    JsonLines(folder / FILE_NAME).append(record)
