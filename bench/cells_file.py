"""The store of measured cells: one JSON line each, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.cell import Cell

FILE_NAME = "memory-cells.jsonl"
FAILED = "failed"


class JsonLines:
    """Records in one file, the oldest first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> Iterator[dict[str, Any]]:
        """Every line, oldest first; one that was cut off (the bench was killed) is left out."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def append(self, record: Mapping[str, Any]) -> None:
        """The record is the last line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(record) + "\n")


class CellsFile(JsonLines):
    """The cells in `folder`; where one was measured more than once, the last line counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE_NAME)

    def newest(self) -> dict[str, dict[str, Any]]:
        """The last record of each cell by its key."""
        return {Cell.from_record(record).key: record for record in self.records()}
