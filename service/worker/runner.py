"""Where a worker runs: how it is started, and how it is told to stop, go on and end.

A runner gives the command of one process of this device, whose life is bound to the daemon's. `local` is the worker
itself. Of `ssh` it is the carrier, which has the worker run on another machine (see `service.worker.remote`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from service.settings.runner import LOCAL, SshAddress

Priority = Literal["requested", "idle"]
EXIT_UNREACHABLE = 69  # of a carrier: the other machine has no result, and the job goes on here
CARRIER = (sys.executable, "-P", "-m", "service.worker.remote.carrier")
WORDS = {signal.SIGSTOP: b"pause\n", signal.SIGCONT: b"resume\n", signal.SIGTERM: b"stop\n"}


class Runner(Protocol):
    """Starts workers on one machine."""

    @property
    def name(self) -> str:
        """The machine, as a job's record names it."""

    @property
    def is_local(self) -> bool:
        """Whether the worker takes this device's processors and memory."""

    @property
    def stdin(self) -> int:
        """The stdin of the process, as subprocess takes it."""

    def command(self, folder: Path, threads: int, priority: Priority) -> list[str]:
        """Return the command for a job directory; `folder` is its last argument."""

    def priority(self, wanted: Priority) -> Priority:
        """Return the priority of the process on this device."""

    def signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Have the worker stop (SIGSTOP), go on (SIGCONT), checkpoint and end (SIGTERM), or be gone (SIGKILL)."""


@dataclass(frozen=True)
class LocalRunner:
    """Runs the worker as a process of this device."""

    worker: Sequence[str]
    name: str = LOCAL
    is_local: bool = True
    stdin: int = subprocess.DEVNULL

    def command(self, folder: Path, threads: int, priority: Priority) -> list[str]:
        """Return the worker's command."""
        return [*self.worker, str(folder)]

    def priority(self, wanted: Priority) -> Priority:
        """Return `wanted`."""
        return wanted

    def signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send it to the worker and all that it started."""
        _signal_group(process, number)


@dataclass(frozen=True)
class SshRunner:
    """Has the worker run on another machine, by a carrier here; `records` is the folder of what may be left there."""

    address: SshAddress
    records: Path
    worker: Sequence[str]  # of this device, which makes the plan
    carries_model: bool = False
    is_local: bool = False
    stdin: int = subprocess.PIPE

    @property
    def name(self) -> str:
        """The address, without the path."""
        return str(SshAddress(self.address.host, self.address.user, self.address.port))

    def command(self, folder: Path, threads: int, priority: Priority) -> list[str]:
        """Return the carrier's command."""
        options = ["--threads", str(threads), "--priority", priority, "--records", str(self.records)]
        options += ["--worker", json.dumps(list(self.worker))]
        model = ["--carry-model"] if self.carries_model else []
        return [*CARRIER, *options, *model, str(self.address), str(folder)]

    def priority(self, wanted: Priority) -> Priority:
        """Return `requested`: a carrier takes next to nothing, and must not be silent for long."""
        return "requested"

    def signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Tell the carrier; one that is killed leaves a worker that notices it and goes."""
        if number not in WORDS:
            _signal_group(process, number)
            return
        with contextlib.suppress(OSError, ValueError):  # it is about to end
            assert process.stdin is not None
            process.stdin.write(WORDS[number])
            process.stdin.flush()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
