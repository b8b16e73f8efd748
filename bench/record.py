"""The shape every result file has (see README, "Measured")."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from bench.checkout import CHECKOUT

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


def write(area: str, command: str, rows: Sequence[dict[str, Any]], folder: Path = RESULTS, **raw: Any) -> Path:
    """`<folder>/<area>.json` holds the rows, the raw table and what they were measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{area}.json"
    record = {
        "area": area,
        "commit": commit(),
        "when": now(),
        "machine": machine(),
        "command": command,
        "versions": versions(),
        "rows": list(rows),
        **raw,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty outside of one."""
    if CHECKOUT is None:
        return ""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--", "*.py") else "")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()}


def versions() -> dict[str, str]:
    """Of what the figures depend on; what is not installed is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
