"""The shape every result file has (see README, "Measured")."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "safetensors")


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    better: Literal["lower", "higher"],
    *,
    goal: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One claim: the median of `values`, with how many runs there were and how far apart they lie."""
    return {
        "name": name,
        "value": round(statistics.median(values), 4),
        "unit": unit,
        "goal": goal,
        "better": better,
        "runs": len(values),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "note": note,
    }


def write(area: str, command: str, rows: Sequence[dict[str, Any]], **raw: Any) -> Path:
    """`bench/results/<area>.json` holds the rows, the raw table and what they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{area}.json"
    record = {
        "area": area,
        "commit": _commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "command": command,
        "versions": {name: version(name) for name in PACKAGES},
        "rows": list(rows),
        **raw,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
