"""How many starts in a row have failed, and what is left undone after three of them."""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from lars_agent.errors import LarsError
from lars_agent.files import write_atomically

log = structlog.get_logger(__name__)

STARTS_NAME = "starts.json"
TOO_MANY = 3


class SafeMode(LarsError):
    """The last starts failed: adapters are neither loaded nor made until a start has gone well."""


def require_adapters(base_only: bool) -> None:
    """Raise SafeMode where only the base model is served."""
    if base_only:
        raise SafeMode("only the base model is served until lars-agent is restarted; GET /info says why")


class StartupFailures:
    """Counts the starts that fail, in `file`; a start has failed unless `went_well` was called after `begin`.

    What cannot be read counts as none, and what cannot be written is logged: counting keeps no daemon from starting.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.failed = 0  # in a row, before this one

    @property
    def safe_mode(self) -> bool:
        """Whether so many have failed that this one serves the base model alone."""
        return self.failed >= TOO_MANY

    @property
    def words(self) -> str:
        """What the owner is told in safe mode."""
        return (
            f"the last {self.failed} starts failed; only the base model is served and nothing is learned; "
            "look at the log, mend what is wrong and restart"
        )

    def begin(self) -> None:
        """This start is one that has failed, as far as anybody knows yet."""
        self.failed = _read(self._file)
        self._write(self.failed + 1)
        if self.safe_mode:
            log.error("safe_mode", words=self.words)

    def went_well(self) -> None:
        """The next start is a normal one."""
        self._write(0)

    def refused(self) -> None:
        """This start does not count: it ended with words about what is to be done, which safe mode could not help."""
        self._write(self.failed)

    def require_normal(self) -> None:
        """Raises SafeMode in safe mode."""
        if self.safe_mode:
            raise SafeMode(self.words)

    def _write(self, failed: int) -> None:
        try:
            write_atomically(self._file, json.dumps({"failed": failed}) + "\n")
        except (OSError, LarsError) as error:
            log.warning("start_not_counted", error=str(error))


def _read(file: Path) -> int:
    try:
        failed = json.loads(file.read_text(encoding="utf-8"))["failed"]
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        log.warning("starts_not_read", file=str(file), error=str(error))
        return 0
    return failed if type(failed) is int and failed > 0 else 0
