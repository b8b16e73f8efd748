"""Outcomes of worker processes."""

from __future__ import annotations

import signal

import pytest

from lars_agent.training.job_directory import EXIT_DISK_FULL, EXIT_STOPPED
from service.worker.memory_limit import Limit
from service.worker.worker_exit import WorkerExit


@pytest.mark.parametrize(
    ("exit_status", "options", "outcome"),
    [
        (0, {}, "ended"),
        (EXIT_STOPPED, {}, "stopped"),
        (-signal.SIGTERM, {"suspended": True}, "suspended"),
        (-signal.SIGKILL, {"hung_s": 9.0}, "hung"),
        (-signal.SIGKILL, {"limit": Limit(100, killed=True)}, "killed_at_limit"),
        (-signal.SIGKILL, {}, "killed"),
        (-signal.SIGSEGV, {}, "crashed"),
        (EXIT_DISK_FULL, {}, "crashed"),
    ],
)
def test_an_end_has_one_outcome(exit_status, options, outcome):
    assert WorkerExit(exit_status, "", **{"limit": Limit(None), **options}).outcome == outcome
