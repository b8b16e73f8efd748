"""The part `systemd_exposure`: what `systemd-analyze security` says of the unit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

from bench.ops.settings import OpsSettings
from bench.record import CHECKOUT
from lars_agent.errors import LarsError

UNIT = CHECKOUT / "systemd" / "lars-agent.service"
LEVEL = re.compile(r"exposure level for lars-agent\.service: ([\d.]+)")


def systemd_exposure(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """The unit's exposure. Raises LarsError where systemd cannot tell."""
    if which("systemd-analyze") is None:
        raise LarsError("there is no systemd-analyze here; run: apt-get install systemd")
    return {"exposure": exposure_of(UNIT)}


def exposure_of(unit: Path) -> float:
    """The exposure of a unit, from 0 to 10. Raises LarsError."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if (level := LEVEL.search(done.stdout)) is None:
        raise LarsError(f"systemd-analyze does not tell the exposure: {done.stderr.strip()}")
    return float(level[1])
