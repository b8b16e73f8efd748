"""Check the folder of a pulled model in a process of its own.

It opens the model and so imports torch, which the daemon must not. See `lars_agent.runtime.model_check`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lars_agent.errors import ModelUnsupported, last_line, process_error

MODULE = "lars_agent.runtime.model_check"


def check_folder(folder: Path) -> tuple[str, ...]:
    """Check the model in `folder` and convert its weights if necessary; return what it cannot do.

    Raises ModelIncomplete, ModelCorrupt or ModelUnsupported.
    """
    command = [sys.executable, "-P", "-m", MODULE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise process_error(done, f"{folder} could not be checked", ModelUnsupported)
    return tuple(json.loads(last_line(done.stdout))["limits"])
