"""The service's last log lines from the journal: event, priority and time, without their messages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from lars_agent.records import parse_json
from service.alarms import AlarmCode
from service.db.records import JobStatus, RunOutcome
from service.support.allowed import LEFT_OUT, keys, one_of
from service.support.traces import traces

LINES, READ_S = 500, 20.0
COMMAND = ("journalctl", "--unit=lars-agent", "--output=json", "--no-pager", "--quiet", f"--lines={LINES}")
# fmt: off
EVENTS = frozenset({
    "adapter_in_use", "adapters_kept", "adapters_withdrawn", "catalog_unreadable", "clock_believed", "clock_doubted",
    "clock_not_kept", "clock_plausible", "clock_set_back", "connections_full", "database_not_ready", "engine_lost",
    "erasure_not_resumed", "housekeeping", "housekeeping_failed", "idle_check_failed", "job_ended", "job_failed",
    "job_not_recorded", "memory_limit", "memory_limit_not_removed", "memory_limit_not_set", "model_loaded",
    "model_not_loaded", "model_pull", "model_pull_over", "model_unloaded", "newest_record_unknown",
    "open_files_limited", "others_may_read", "reply_not_recorded", "request", "request_failed", "safe_mode",
    "scheduled_run", "scheduled_run_failed", "sd_notify_failed", "settings_not_reloaded", "settings_reloaded",
    "start_not_counted", "starts_not_read", "status_failed", "stray_worker_killed", "stream_broke_off",
    "work_not_begun", "worker_ended", "worker_paused", "worker_resumed",
    *get_args(AlarmCode),
})
# fmt: on
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
STATUS = re.compile(r"-?\d{1,3}|[A-Z]{3,6}")  # a number, or a signal


def _exit_status(value: Any) -> Any:
    return value if isinstance(value, str) and STATUS.fullmatch(value) else LEFT_OUT


ENTRY = keys(
    PRIORITY=one_of("01234567"),
    LARS_AGENT_EVENT=one_of(EVENTS),
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
