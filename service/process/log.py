"""The log's configuration, for a terminal or the journal, and a limit on lines that repeat."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from service.process.journal import Journal, JournalHandler, JournalRenderer

MOST_REPEATS, WINDOW_S, MOST_KINDS = 10, 60.0, 1000
LAST = f"more lines like it are left out, for up to {WINDOW_S:.0f} s"
KIND_CHARS = 100


class RepeatLimit(logging.Filter):
    """Lets ten lines of a kind pass a minute, so that no client can fill the disk; as structlog's processor, too."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now, self._lock = now, threading.Lock()
        self._until, self._counts, self._left_out = now() + WINDOW_S, Counter[str](), Counter[str]()

    def note(self, kind: str) -> str | None:
        """Count a line; return a note for its end, if any, or None if the line is to be left out."""
        with self._lock:
            if self._now() >= self._until:
                self._left_out = self._counts - Counter(dict.fromkeys(self._counts, MOST_REPEATS))
                self._counts, self._until = Counter(), self._now() + WINDOW_S
            if kind not in self._counts and len(self._counts) >= MOST_KINDS:
                kind = "others"
            self._counts[kind] += 1
            if self._counts[kind] > MOST_REPEATS:
                return None
            if self._counts[kind] == MOST_REPEATS:
                return LAST
            left_out = self._left_out.pop(kind, 0)
            return f"{left_out:,} lines like it were left out before" if left_out else ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False to leave the record out; numbers and what follows its first line make no difference."""
        error = record.exc_info[0] if record.exc_info else None
        text = re.sub(r"\d+", "", str(record.msg).partition("\n")[0][:KIND_CHARS])
        note = self.note(f"{record.name} {record.levelno} {error} {text}")
        if note:
            record.msg = f"{str(record.msg).rstrip()} ({note})"
        return note is not None

    def __call__(self, logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Pass the line on. Raises DropEvent to leave it out; only its event and its level make a difference.

        Lines of the level `debug`, which only come where somebody wants to see them all, have no limit.
        """
        if method == "debug":
            return line
        note = self.note(f"{method} {line.get('event')}")
        if note is None:
            raise structlog.DropEvent
        return {**line, "note": note} if note else line


def configure(level: str = "info") -> None:
    """Log lines for a terminal or the journal; tracebacks show no values, which may hold prompts and replies."""
    set_level(level)
    limit, journal = RepeatLimit(), Journal.from_environment(os.environ)
    if journal is not None:
        _to_journal(journal, limit)
    else:
        logging.getLogger("uvicorn.error").addFilter(limit)
        if logging.lastResort is not None:  # asyncio's and all others
            logging.lastResort.addFilter(limit)
    trace, is_terminal = structlog.dev.plain_traceback, sys.stdout.isatty()
    structlog.configure(
        processors=[
            limit,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            *(() if journal else (structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),)),
            JournalRenderer(journal)
            if journal
            else structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=trace),
        ]
    )


def _to_journal(journal: Journal, limit: RepeatLimit) -> None:
    """Send what other libraries log to the journal, too."""
    handler = JournalHandler(journal)
    handler.setLevel(logging.WARNING)
    handler.addFilter(limit)
    logging.getLogger().addHandler(handler)


def is_journal() -> bool:
    """Return True if lines go to the journal: uvicorn then needs no handlers of its own."""
    return any(isinstance(handler, JournalHandler) for handler in logging.getLogger().handlers)


def set_level(level: str) -> None:
    """Leave out what is less important than `level`, from now on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
