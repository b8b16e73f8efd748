"""The daemon's log."""

from __future__ import annotations

import subprocess
import sys

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
