"""A base model made ready by `bench.base_model`, without torch in this process.

Whoever samples a cell must not map torch itself: pages that two processes share are no longer one's own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lars_agent.errors import LarsError


def ready_model(reference: str, dtype: str, device: str, models: Path) -> Path:
    """The folder of the model, which is on this disk and has been opened once. Raises LarsError that says why not."""
    command = [sys.executable, "-P", "-m", "bench.base_model", reference, dtype, device, str(models)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LarsError((done.stderr.strip().splitlines() or [f"{reference} could not be opened"])[-1])
    return Path(done.stdout.strip().splitlines()[-1])
