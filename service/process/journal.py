"""Log lines as entries of systemd's journal, with priority and fields, by its native protocol.

`journalctl -u lars-agent -p warning` and `journalctl LARS_AGENT_EVENT=job_ended` find them. Fields are taken from a
fixed list: the journal keeps an index of their values, in which no name of a person's has a place.
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import structlog

SOCKET = "/run/systemd/journal/socket"
SEND_S = 1.0
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
FIELDS = {  # of the journal, by the key of a line; each value is a word or number of the daemon's own
    "event": "LARS_AGENT_EVENT",
    "job": "LARS_AGENT_JOB",
    "job_id": "LARS_AGENT_JOB",
    "status": "LARS_AGENT_STATUS",
    "outcome": "LARS_AGENT_OUTCOME",
    "exit_status": "LARS_AGENT_EXIT_STATUS",
    "version": "LARS_AGENT_VERSION",
}


@dataclass(frozen=True)
class Journal:
    """The journal that listens at the socket `address`."""

    address: str = SOCKET

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], address: str = SOCKET) -> Self | None:
        """Return the journal if stdout or stderr is the stream to it that JOURNAL_STREAM names; see systemd.exec(5)."""
        streams = {f"{status.st_dev}:{status.st_ino}" for status in map(os.fstat, (1, 2))}
        return cls(address) if environment.get("JOURNAL_STREAM") in streams else None

    def send(self, level: str, message: str, fields: Mapping[str, object]) -> bool:
        """Send an entry; return False if that failed."""
        entry = {"MESSAGE": message, "PRIORITY": PRIORITIES.get(level, 6), "SYSLOG_IDENTIFIER": "lars-agent", **fields}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_S)
                end.sendto(b"".join(_field(name, str(value)) for name, value in entry.items()), self.address)
        except OSError:  # it is being started again, or the entry is too large
            return False
        return True


class JournalRenderer:
    """Sends structlog's lines to the journal, and returns for its stream on stdout those that could not be sent."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        trace = structlog.dev.plain_traceback
        self._render = structlog.dev.ConsoleRenderer(0, colors=False, exception_formatter=trace)

    def __call__(self, logger: Any, method: str, line: MutableMapping[str, Any]) -> str:
        """Send the line. Raises DropEvent once it is sent."""
        fields = {FIELDS[key]: value for key, value in line.items() if key in FIELDS and value is not None}
        level = line.pop("level", method)
        message = self._render(logger, method, line)
        if self._journal.send(level, message, fields):
            raise structlog.DropEvent
        return prefixed(level, message)


class JournalHandler(logging.Handler):
    """Sends the records of other libraries to the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; write it to stderr if that fails."""
        try:
            level, message = record.levelname.lower(), self.format(record)
            if not self._journal.send(level, message, {"LARS_AGENT_LOGGER": record.name}):
                os.write(2, f"{prefixed(level, message)}\n".encode(errors="replace"))
        except Exception:
            self.handleError(record)


def prefixed(level: str, message: str) -> str:
    """Return the lines of `message`, each with its priority as the journal reads it; see sd-daemon(3)."""
    return "\n".join(f"<{PRIORITIES.get(level, 6)}>{line}" for line in message.split("\n"))


def _field(name: str, value: str) -> bytes:
    """Return a field as the protocol has it: with its length where a line break would end it."""
    data = value.encode(errors="replace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
