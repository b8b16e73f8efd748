"""Lines of the log in the journal: a real socket, and a process whose stdout is named as its stream."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.process.journal import Journal, prefixed

LOGGING = """
import logging, os, sys
status = os.fstat(1)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from service.process import journal, log
journal.Journal.from_environment.__func__.__defaults__ = (sys.argv[1],)
log.configure()
import structlog, uvicorn
one = structlog.get_logger("a")
"""


def entry_of(datagram: bytes) -> dict[str, str]:
    """The fields, read as journald reads them."""
    fields = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length, datagram = int.from_bytes(datagram[:8], "little"), datagram[8:]
            value, datagram = datagram[:length], datagram[length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def listening(tmp_path) -> Iterator[tuple[Path, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        end.settimeout(10)
        yield tmp_path / "socket", end


def logged(address: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOGGING + code, str(address)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def received(end: socket.socket) -> list[dict[str, str]]:
    end.setblocking(False)
    found = []
    while True:
        try:
            found.append(entry_of(end.recv(2**20)))
        except BlockingIOError:
            return found


def test_lines_have_priority_event_and_job_and_nothing_but_the_message_has_a_profile(listening):
    address, end = listening
    code = """
one.info("job_ended", job="j-1", status="succeeded", profile="margarethe", message="two\\nlines\\nPRIORITY=0")
one.warning("clock_doubted", doubt="ahead")
try:
    1 / 0
except ZeroDivisionError:
    one.exception("job_failed", job="j-2")
logging.getLogger("asyncio").error("socket %d", 7)
logging.getLogger("lars_agent.store").info("said to nobody")
uvicorn.Config(None, log_level="warning", **({"log_config": None} if log.is_journal() else {}))
logging.getLogger("uvicorn.error").error("Exception in ASGI application")
"""
    done = logged(address, code)
    assert (done.stdout, done.stderr) == ("", "")
    ended, doubted, failed, library, server = received(end)
    assert ended["MESSAGE"].startswith("job_ended ")
    assert "PRIORITY=0" in ended["MESSAGE"]
    assert {name: value for name, value in ended.items() if name != "MESSAGE"} == {
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "lars-agent",
        "LARS_AGENT_EVENT": "job_ended",
        "LARS_AGENT_JOB": "j-1",
        "LARS_AGENT_STATUS": "succeeded",
    }
    assert (doubted["PRIORITY"], doubted["LARS_AGENT_EVENT"]) == ("4", "clock_doubted")
    assert (failed["PRIORITY"], failed["LARS_AGENT_JOB"]) == ("3", "j-2")
    assert "ZeroDivisionError" in failed["MESSAGE"]
    assert (library["PRIORITY"], library["MESSAGE"]) == ("3", "socket 7")
    assert (server["PRIORITY"], server["LARS_AGENT_LOGGER"]) == ("3", "uvicorn.error")


def test_lines_that_cannot_be_sent_go_to_the_stream_each_with_its_priority(tmp_path):
    code = """
try:
    1 / 0
except ZeroDivisionError:
    one.exception("a")
logging.getLogger("asyncio").error("d")
"""
    done = logged(tmp_path / "nobody", code)
    lines = done.stdout.splitlines()
    assert len(lines) > 3
    assert {line[:3] for line in lines} == {"<3>"}
    assert done.stderr == "<3>d\n"
    assert prefixed("error", "a\nb") == "<3>a\n<3>b"


@pytest.mark.parametrize("stream", [None, "", "1:2"])
def test_the_journal_is_used_only_where_stdout_or_stderr_is_its_stream(stream):
    environment = {} if stream is None else {"JOURNAL_STREAM": stream}
    assert Journal.from_environment(environment) is None
    status = os.fstat(2)
    assert Journal.from_environment({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}) is not None


def test_an_entry_that_is_larger_than_a_datagram_is_refused_and_not_lost(listening):
    address, end = listening
    done = logged(address, 'one.error("large", text="x" * 2**23)\none.info("small")')
    assert done.stdout.startswith("<3>large")
    assert [entry["LARS_AGENT_EVENT"] for entry in received(end)] == ["small"]
