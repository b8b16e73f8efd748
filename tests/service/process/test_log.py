"""The daemon's log."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import structlog

from service.process.log import MOST_KINDS, MOST_REPEATS, WINDOW_S, RepeatLimit

LOGGING = """
import structlog
from service.process import log
log.configure()
def fail():
    said = "my " + "secret"
    raise ValueError("no such thing")
try:
    fail()
except ValueError:
    structlog.get_logger("a").exception("it_failed", job="j-1")
"""


def test_traceback_shows_code_but_no_values():
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    assert "it_failed" in done.stdout
    assert "job=j-1" in done.stdout
    assert "ValueError: no such thing" in done.stdout
    assert "in fail" in done.stdout
    assert "my secret" not in done.stdout + done.stderr


def record(text: str, *args: object, name: str = "asyncio", error: type[BaseException] | None = None):
    exc_info = None if error is None else (error, error(), None)
    return logging.LogRecord(name, logging.ERROR, "file.py", 1, text, args, exc_info)


def test_lines_of_a_kind_are_left_out_after_ten_a_minute_and_counted_in_the_next():
    now = [0.0]
    limit = RepeatLimit(lambda: now[0])
    notes = [limit.note("accept failed") for _ in range(5000)]
    assert notes[: MOST_REPEATS - 1] == [""] * (MOST_REPEATS - 1)
    assert "left out" in notes[MOST_REPEATS - 1]
    assert notes[MOST_REPEATS:] == [None] * (5000 - MOST_REPEATS)
    assert limit.note("something else") == ""
    now[0] = WINDOW_S
    assert limit.note("accept failed") == "4,990 lines like it were left out before"
    assert limit.note("accept failed") == ""


def test_kinds_that_a_client_invents_are_limited_together():
    limit = RepeatLimit(lambda: 0.0)
    passed = sum(limit.note(f"kind {number}") is not None for number in range(5 * MOST_KINDS))
    assert passed == MOST_KINDS + MOST_REPEATS


@pytest.mark.parametrize(
    ("text", "error", "is_same"),
    [
        ("accept() failed\nsocket: <fd=8>", None, True),
        ("accept() failed", None, True),
        ("accept() failed", OSError, False),
        ("read() failed", None, False),
    ],
)
def test_records_are_of_a_kind_whatever_their_numbers_and_details(text, error, is_same):
    limit = RepeatLimit(lambda: 0.0)
    assert [limit.filter(record("accept() failed\nsocket: <fd=7>")) for _ in range(99)].count(True) == MOST_REPEATS
    assert limit.filter(record(text, error=error)) is not is_same


def test_a_note_leaves_a_records_arguments_where_they_are():
    limit = RepeatLimit(lambda: 0.0)
    last = [record("%d of %s", 5, "it") for _ in range(MOST_REPEATS)]
    assert all(map(limit.filter, last))
    assert last[-1].getMessage().startswith("5 of it (more lines")


def test_events_of_a_kind_are_dropped_by_name_and_level():
    limit = RepeatLimit(lambda: 0.0)
    lines = [limit(None, "warning", {"event": "full", "n": n}) for n in range(MOST_REPEATS)]
    assert "left out" in lines[-1]["note"]
    with pytest.raises(structlog.DropEvent):
        limit(None, "warning", {"event": "full", "n": 99})
    assert limit(None, "error", {"event": "full"}) == {"event": "full"}


def test_the_daemons_and_its_servers_logs_are_limited():
    lines = 'for n in range(500): structlog.get_logger("b").warning("again", n=n)\n' + "".join(
        f'for n in range(500): logging.getLogger("{name}").error("Failed %d", n)\n'
        for name in ("uvicorn.error", "asyncio")
    )
    uvicorn = 'import logging, uvicorn\nuvicorn.Config(None, log_level="warning")\n'
    done = subprocess.run([sys.executable, "-c", LOGGING + uvicorn + lines], capture_output=True, text=True, check=True)
    assert done.stdout.count("again") == MOST_REPEATS
    assert done.stderr.count("Failed") == 2 * MOST_REPEATS
