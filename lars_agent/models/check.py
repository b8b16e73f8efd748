"""Whether a folder holds a tokenizer and settings that can be opened: `python -m lars_agent.models.check FOLDER`.

In a process of its own, for the daemon has no torch, which comes with opening them. The error is one line of JSON on
stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lars_agent.errors import LarsError, ModelUnsupported, process_error, serialize_error

__all__ = ["check_folder", "main"]


def check_folder(folder: Path) -> None:
    """Raises ModelIncomplete, ModelCorrupt or ModelUnsupported, as `lars_agent.models.open` does."""
    command = [sys.executable, "-P", "-m", "lars_agent.models.check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise process_error(done, f"{folder} could not be checked", ModelUnsupported)


def main(arguments: list[str]) -> int:
    """The exit status: 0 for a folder that can be opened."""
    from lars_agent.models.open import open_generation_config, open_tokenizer

    folder = Path(arguments[0])
    try:
        open_tokenizer(folder)
        open_generation_config(folder)
    except LarsError as error:
        print(json.dumps(serialize_error(error)))  # noqa: T201 (its only output)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
