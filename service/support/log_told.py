"""The service's last log lines from the journal: event, priority and time, without their messages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

import service
from lars_agent.records import parse_json
from service.alarms import AlarmCode
from service.db.records import JobStatus, RunOutcome
from service.support.allowed import LEFT_OUT, keys, one_of
from service.support.traces import traces

LINES, READ_S = 500, 20.0
OWN = ("SYSLOG_IDENTIFIER=lars-agent", "+", "UNIT=lars-agent.service", "+", "USER_UNIT=lars-agent.service")
COMMAND = ("journalctl", "--output=json", "--no-pager", "--quiet", f"--lines={LINES}", *OWN)
SYSTEMD = {  # its own messages about the service, see sd-messages.h
    "7d4958e842da4a758f6c1cdc7b36dcc5": "starting",
    "39f53479d3a045ac8e11786248231fbf": "started",
    "be02cf6855d2428ba40df7e9d022f03d": "start failed",
    "de5b426a63be47a7b6ac3eaac82e2f6f": "stopping",
    "9d1aaa27d60140bd96365438aad20286": "stopped",
    "7b05ebc668384222baa8881179cfda54": "reloaded",
    "98e322203f7a4ed290d09fe03c09fe15": "process ended",
    "d9b373ed55a64feb8242e02dbe79a49c": "service failed",
    "5eb03494b6584870a536b337290809b3": "restart is scheduled",
    "fe6faa94e7774663a0da52717891d8ef": "killed: out of memory",
}
LOGGED = re.compile(r"\blog\.(?:debug|info|warning|error|exception|critical)\(([^,)]*)")  # its first argument
WORD = re.compile(r'"(\w+)"')
STATUS = re.compile(r"-?\d{1,3}|[A-Z]{3,6}")  # a number, or a signal


@cache
def known_events() -> frozenset[str]:
    """Return the names of the events that this program's sources log, and those of the alarms, logged by their code."""
    texts = (path.read_text(encoding="utf-8") for path in Path(service.__path__[0]).rglob("*.py"))
    arguments = (found[1] for text in texts for found in LOGGED.finditer(text))
    return frozenset(get_args(AlarmCode)) | {name for argument in arguments for name in WORD.findall(argument)}


def _exit_status(value: Any) -> Any:
    return value if isinstance(value, str) and STATUS.fullmatch(value) else LEFT_OUT


ENTRY = keys(
    PRIORITY=one_of("01234567"),
    LARS_AGENT_EVENT=lambda event: one_of(known_events())(event),
    LARS_AGENT_STATUS=one_of([*get_args(JobStatus), *map(str, range(100, 600))]),
    LARS_AGENT_OUTCOME=one_of(get_args(RunOutcome)),
    LARS_AGENT_EXIT_STATUS=_exit_status,
    EXIT_CODE=one_of(["exited", "killed", "dumped"]),
    EXIT_STATUS=_exit_status,
)


def log_told(command: Sequence[str] = COMMAND) -> list[Any]:
    """Return the latest entries, oldest first; of others than the daemon's and systemd's only their priority.

    Raises OSError and subprocess.SubprocessError where the journal cannot be read.
    """
    done = subprocess.run(command, capture_output=True, check=True, timeout=READ_S)
    return [_told(entry) for line in done.stdout.splitlines() if isinstance(entry := _parsed(line), Mapping)]


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line)
    except (ValueError, RecursionError):
        return None


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    told = {"time": _time(entry.get("__REALTIME_TIMESTAMP")), **ENTRY(entry)}
    if said := SYSTEMD.get(str(entry.get("MESSAGE_ID"))):
        told["systemd"] = said
    if isinstance(message := entry.get("MESSAGE"), str) and (found := traces(message)):
        told["traceback"] = found
    return told


def _time(microseconds: Any) -> str | None:
    try:
        return datetime.fromtimestamp(int(microseconds) / 1e6, UTC).isoformat(timespec="seconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return None
