"""Check that a model folder's tokenizer and generation config open: `python -m lars_agent.models.check FOLDER`.

Runs in a process of its own, because opening them imports torch, which the daemon must not. The error is one line of
JSON on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lars_agent.errors import LarsError, ModelUnsupported, process_error, serialize_error


def check_folder(folder: Path) -> None:
    """Check `folder` in a new process. Raises ModelIncomplete, ModelCorrupt or ModelUnsupported."""
    command = [sys.executable, "-P", "-m", "lars_agent.models.check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise process_error(done, f"{folder} could not be checked", ModelUnsupported)


def open_parts(folder: Path) -> None:
    """Open the folder's tokenizer and generation config in this process. Raises as `check_folder` does."""
    from lars_agent.models.open import open_config, open_generation_config, open_tokenizer

    open_config(folder)
    open_tokenizer(folder)
    open_generation_config(folder)


def main(arguments: list[str]) -> int:
    """Check the folder and return the exit status."""
    try:
        open_parts(Path(arguments[0]))
    except LarsError as error:
        print(json.dumps(serialize_error(error)))  # noqa: T201 (its only output)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
