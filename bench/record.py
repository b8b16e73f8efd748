"""Format of rows and result files (`bench/results/<area>.json`)."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "safetensors")
Row = dict[str, Any]


def claimed(name: str, values: Sequence[float], /, **words: Any) -> Row:
    """The row of the claim `name` in claims.toml: the median of `values`, the number of runs, and their range.

    `words` fill in the placeholders of its name and note.
    """
    claim = claims()[name]
    return {
        "name": name.format(**words),
        "value": round(statistics.median(values), 4),
        "unit": claim["unit"],
        "goal": claim.get("goal"),
        "better": claim["better"],
        "runs": len(values),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "note": claim.get("note", "").format(**words),
    }


@cache
def claims() -> dict[str, dict[str, Any]]:
    """Every claim of every area by its name: unit, better, and where it has them goal and note."""
    return {name: claim for area in tables("claims.toml").values() for name, claim in area.items()}


def tables(name: str) -> dict[str, Any]:
    """The tables of a TOML file beside this module."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def write(area: str, command: str, rows: Sequence[Row], folder: Path = RESULTS, **raw: Any) -> Path:
    """Write the rows, the machine they were measured on and references to the raw data to `<folder>/<area>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{area}.json"
    record = {"area": area, "command": command, **circumstances(), "rows": list(rows), **raw}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def circumstances() -> dict[str, Any]:
    """Commit, time, machine and package versions of a measurement."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--", "*.py") else ""),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def processor() -> str:
    """The name of this machine's processor, or of the one that is emulated."""
    if emulated := os.environ.get("QEMU_CPU"):
        return f"{emulated}, emulated"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
