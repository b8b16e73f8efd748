"""The worker process of one job at a time: started, held, parked, released, stopped, watched, and never left behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from lars_agent.errors import WorkerFailed
from lars_agent.files import write_atomically
from lars_agent.memory.allocator import thrifty_environment
from lars_agent.training.job_directory import ALIVE_FILE, EXIT_DISK_FULL, EXIT_STOPPED, PROGRESS_FILE, JobSpec
from service.memory_limit import GUARD_ONLY, Limit, MemoryLimit

DEFAULT_COMMAND = (sys.executable, "-m", "lars_agent.training.worker")
LOG_NAME = "worker.log"
PID_NAME = "worker.json"
TAIL_BYTES = 4_000
PARKING_S = 60.0  # to write the checkpoint in, where nobody waits for the daemon's end

_LEASH = str(Path(__file__).with_name("leash.py"))


@dataclass(frozen=True)
class Ending:
    """How a worker process ended: its exit status (below zero: the signal), its last line, and its memory's limit.

    `parked`: it was asked to, because it was held for long. `hung_s`: it was killed, having got no further for so long.
    """

    exit_status: int
    log_tail: str
    limit: Limit
    parked: bool = False
    hung_s: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether somebody asked the worker to end: it goes on from its checkpoint when it is run again."""
        return self.exit_status in (EXIT_STOPPED, -signal.SIGTERM)

    def failure(self) -> WorkerFailed:
        """The error that this ending is, when it left no result."""
        if self.hung_s is not None:
            return WorkerFailed(
                f"the training worker got no further for {self.hung_s:.0f} s (training.hang_s) and was killed; "
                "its log says what it did last"
            )
        if self.limit.killed:
            return WorkerFailed(
                f"the training worker was killed at its memory limit of {self.limit.limit_bytes:,} bytes "
                "(memory.budget_bytes); raise it, or lower training.max_seq_len"
            )
        if self.exit_status == EXIT_DISK_FULL:
            return WorkerFailed("no room on the disk for what the training worker found; free some space and try again")
        how = f"exit status {self.exit_status}"
        if self.exit_status < 0:
            how = f"signal {signal.Signals(-self.exit_status).name}"
        hint = ", which the system sends when memory runs out" if self.exit_status == -signal.SIGKILL else ""
        said = f"; it last said: {self.log_tail}; its log says more" if self.log_tail else ""
        return WorkerFailed(f"the training worker ended with {how}{hint} and left no result{said}")


@dataclass(frozen=True)
class Pause:
    """How often somebody held the worker, and for how long all together."""

    count: int = 0
    seconds: float = 0.0


class WorkerProcess:
    """At most one worker process; it runs while nobody holds it.

    `hold` and `release` name who holds ("user", "requests", "heat"): the process is stopped (SIGSTOP) while anyone
    does, and a worker that is started while held waits before it takes any memory. One that gets no further for
    `hang_s`, the time that it is held left out, is killed. All methods may be called from any thread.
    """

    def __init__(
        self,
        command: Sequence[str] = DEFAULT_COMMAND,
        *,
        threads: int = 0,
        memory_limit: MemoryLimit = GUARD_ONLY,
        grace_s: float = 30.0,
        poll_s: float = 0.1,
        hang_s: float = math.inf,
    ) -> None:
        self._command = tuple(command)
        self._memory_limit = memory_limit
        self._threads = threads
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._changed = threading.Condition(threading.RLock())
        self._hang_s = hang_s
        self._holders: dict[str, float] = {}  # since when, by time.monotonic
        self._pauses: dict[str, Pause] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._kill_at: float | None = None
        self._stopping = self._parking = False
        self._alive: tuple[int, ...] = ()  # what was seen of the worker's getting on, and when it last was
        self._alive_at = 0.0
        self._hung_s: float | None = None

    def use(self, *, threads: int, hang_s: float) -> None:
        """The next worker has so many threads, and so long to get on."""
        with self._changed:
            self._threads, self._hang_s = threads, hang_s

    @property
    def pid(self) -> int | None:
        """The process id of the worker, None while none runs."""
        with self._changed:
            return self._process.pid if self._process else None

    def run(self, folder: Path) -> Ending | None:
        """The worker has worked on the job directory and ended; None if it was stopped before it began.

        Raises JobInvalid where job.json cannot be read: it says how much memory the worker may take.
        """
        budget_bytes = JobSpec.read(folder).budget_bytes
        with (folder / LOG_NAME).open("ab") as log, self._memory_limit.around(budget_bytes) as limit:
            log_start = log.tell()
            try:
                if not self._start(folder, log, limit):
                    return None
                exit_status = self._wait(folder)
            finally:
                self._leave_none()
                parked, self._parking = self._parking, False
        return Ending(exit_status, _tail(folder / LOG_NAME, log_start), limit, parked, self._hung_s)

    @property
    def holders(self) -> frozenset[str]:
        """Who holds the worker."""
        with self._changed:
            return frozenset(self._holders)

    def held_s(self) -> float:
        """For how long the worker has been held; 0 where it is not."""
        with self._changed:
            return time.monotonic() - min(self._holders.values()) if self._holders else 0.0

    def take_pauses(self) -> dict[str, Pause]:
        """By whom the worker was held since this was asked last, pauses that have not ended included."""
        with self._changed:
            for holder in self._holders:
                self._count(holder)
            pauses, self._pauses = self._pauses, {}
            return pauses

    def hold(self, holder: str) -> None:
        """The worker stands still until `holder` releases it."""
        with self._changed:
            self._holders.setdefault(holder, time.monotonic())
            if not self._stopping and not self._parking:  # one that is to write its checkpoint must not stand still
                self._signal(signal.SIGSTOP)

    def release(self, holder: str) -> None:
        """`holder` holds the worker no longer; it goes on unless somebody else does."""
        with self._changed:
            if holder in self._holders:
                self._count(holder)
                del self._holders[holder]
            if not self._holders:
                self._signal(signal.SIGCONT)
                self._changed.notify_all()

    def park(self) -> None:
        """The worker that is held has been asked to checkpoint and end; another one is started once nobody holds it."""
        with self._changed:
            if self._process is None or self._parking or not self._holders:
                return
            self._parking = True
            self._ask_to_end(max(PARKING_S, self._grace_s))

    def stop(self) -> None:
        """The worker has been asked to checkpoint and end; it is killed if it has not after the grace time."""
        with self._changed:
            self._stopping = True
            self._ask_to_end(self._grace_s)
            self._changed.notify_all()

    def rearm(self) -> None:
        """`stop` is forgotten and the user's hold with it: the next `run` starts a worker."""
        with self._changed:
            self._stopping = False
            self._kill_at = None
            self._holders.pop("user", None)
            self._pauses = {}

    def _start(self, folder: Path, log: BinaryIO, limit: Limit) -> bool:
        """Whether a worker has been started; waits while the worker is held."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._holders)
            if self._stopping:
                return False
            entrance = str(limit.entrance or "")
            command = [sys.executable, _LEASH, str(os.getpid()), entrance, *self._command, str(folder)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=worker_environment(self._threads),
                process_group=0,
            )
            self._alive_at, self._hung_s = time.monotonic(), None
            write_atomically(folder / PID_NAME, json.dumps({"pid": self._process.pid, **limit.as_dict()}))
            return True

    def _wait(self, folder: Path) -> int:
        """The exit status of the worker, which has ended. Polled: no signal goes to a reaped process's id."""
        while True:
            with self._changed:
                assert self._process is not None
                exit_status = self._process.poll()
                if exit_status is not None:
                    self._process, self._kill_at = None, None
                    return exit_status
                self._watch(folder)
                if self._kill_at is not None and time.monotonic() > self._kill_at:
                    self._signal(signal.SIGKILL)
                self._changed.wait(self._poll_s)

    def _watch(self, folder: Path) -> None:
        """A worker that gets no further is killed."""
        alive, now = _signs_of_life(folder), time.monotonic()
        if alive != self._alive or self._holders:
            self._alive, self._alive_at = alive, now
        elif now - self._alive_at > self._hang_s:
            self._hung_s = now - self._alive_at
            self._signal(signal.SIGKILL)

    def _ask_to_end(self, grace_s: float) -> None:
        self._kill_at = time.monotonic() + grace_s
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process hears SIGTERM only when it runs again

    def _count(self, holder: str) -> None:
        """One more pause of `holder`, until now; the next one's time runs from now on."""
        now, before = time.monotonic(), self._pauses.get(holder, Pause())
        self._pauses[holder] = Pause(before.count + 1, before.seconds + now - self._holders[holder])
        self._holders[holder] = now

    def _leave_none(self) -> None:
        """No worker runs; one does here only when an error came between its start and its end."""
        with self._changed:
            if self._process is not None:
                self._signal(signal.SIGKILL)
                self._process.wait()
                self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def worker_environment(threads: int) -> dict[str, str]:
    """Ours, with the worker's number of threads (0: one a core) and an allocator that gives memory back."""
    number = str(threads or os.cpu_count() or 1)
    return {
        **thrifty_environment(os.environ),
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "PYTHONUNBUFFERED": "1",
    }


def kill_stray(folder: Path) -> int | None:
    """No worker of an earlier daemon works in this job directory; the id of the one that was killed, if any.

    A process is a stray only if it has the recorded id *and* names this job directory in its command line, so a
    process that was given the same id since is left alone.
    """
    try:
        pid = int(json.loads((folder / PID_NAME).read_text())["pid"])
        stray = psutil.Process(pid)
        if str(folder) not in stray.cmdline():
            return None
        stray.kill()
        stray.wait(timeout=10)
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return pid


def _signs_of_life(folder: Path) -> tuple[int, ...]:
    """Something else whenever the worker has got on; a clock that is set back or forth is one such time."""
    found = []
    for name in (ALIVE_FILE, PROGRESS_FILE, LOG_NAME):
        with contextlib.suppress(OSError):
            found.append((folder / name).stat().st_mtime_ns)
    return tuple(found)


def _tail(log: Path, start: int) -> str:
    """The last line written to the log since `start` (bytes); empty where there is none."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
