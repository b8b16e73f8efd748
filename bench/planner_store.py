"""The planner bench's cells, one JSON line each, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "planner-cells.jsonl"
KEY = ("seed", "number", "model", "dtype", "context", "reply", "batch", "budget_bytes")


def planner_records(folder: Path) -> list[dict[str, Any]]:
    """The newest record of each cell."""
    path = folder / FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({planner_key(record): record for record in map(json.loads, lines)}.values())


def planner_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in KEY)


def append_planner_record(folder: Path, record: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
