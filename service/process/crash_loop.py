"""Count of the starts in a row that have failed; after three of them the daemon starts in safe mode."""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from lars_agent.errors import LarsError
from lars_agent.files import write_atomically

log = structlog.get_logger(__name__)

STARTS_NAME = "starts.json"
MAX_FAILURES = 3


class SafeMode(LarsError):
    """The last starts failed: adapters are neither loaded nor trained until a start succeeds."""


def require_adapters(base_only: bool) -> None:
    """Raise SafeMode if only the base model is served."""
    if base_only:
        raise SafeMode("only the base model is served until lars-agent is restarted; GET /info says why")


class StartupFailures:
    """Count of failed starts, kept in `file`; a start has failed unless `clear` is called after `begin`.

    A file that cannot be read counts as 0 and a failed write is logged, so that counting never prevents a start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.failed = 0  # in a row, before this one

    @property
    def safe_mode(self) -> bool:
        """True if so many have failed that this one serves the base model alone."""
        return self.failed >= MAX_FAILURES

    @property
    def message(self) -> str:
        """The message that is shown in safe mode."""
        return (
            f"the last {self.failed} starts failed; only the base model is served and nothing is learned; "
            "read the log, fix the cause and restart"
        )

    def begin(self) -> None:
        """Count this start as failed until `clear`."""
        self.failed = _read(self._file)
        self._write(self.failed + 1)
        if self.safe_mode:
            log.error("safe_mode", message=self.message)

    def clear(self) -> None:
        """Record that the start succeeded; the next one is normal."""
        self._write(0)

    def exclude(self) -> None:
        """Do not count this start: it ended with an error message, about something that safe mode does not change."""
        self._write(self.failed)

    def require_normal(self) -> None:
        """Raise SafeMode in safe mode."""
        if self.safe_mode:
            raise SafeMode(self.message)

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
