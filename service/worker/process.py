"""Start, pause, suspend and stop the worker process of one job at a time; none is left behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import psutil
import structlog

from lars_agent.files import write_atomically
from lars_agent.memory.allocator import torch_environment
from lars_agent.training.job_directory import ALIVE_FILE, PROGRESS_FILE
from service.settings.runner import parse_runner
from service.settings.training import Training
from service.worker.hang_check import HangCheck, signs_of_life
from service.worker.memory_limit import GUARD_ONLY, Limit, MemoryLimit
from service.worker.pause_reasons import Pause, PauseReason, PauseReasons
from service.worker.runner import LocalRunner, Priority, Runner, SshRunner
from service.worker.worker_exit import WorkerExit

log = structlog.get_logger(__name__)

DEFAULT_COMMAND = (sys.executable, "-m", "lars_agent.training.worker")
LOG_NAME = "worker.log"
PID_NAME = "worker.json"
TAIL_BYTES = 4_000
POLL_S = 0.1
GRACE_S = 5.0
SUSPEND_S = 60.0  # to write the checkpoint in, where nobody waits for the daemon's end

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


class WorkerProcess:
    """At most one worker process; it runs while there is no reason to pause it.

    `pause` and `resume` give the reason: the process is stopped (SIGSTOP) while there is any, and a worker that is
    started meanwhile waits before it takes any memory. One that makes no progress for long, pauses left out, is
    killed (`use` says how long that is). All methods may be called from any thread.

    The worker is one of this device's, or of another machine (`training.runner`) with a carrier here in its place; what
    that machine does not complete is completed here. `records` is the folder of what may be left there.
    """

    def __init__(
        self,
        command: Sequence[str] = DEFAULT_COMMAND,
        *,
        memory_limit: MemoryLimit = GUARD_ONLY,
        grace_s: float = GRACE_S,
        records: Path = Path(),
    ) -> None:
        self.command = tuple(command)
        self.memory_limit = memory_limit
        self._records = records
        self._local = LocalRunner(self.command)
        self._wanted: Runner = self._local
        self._runner: Runner = self._local  # of the process that runs
        self._threads, self._hang_s, self._grace_s = 0, math.inf, grace_s
        self._changed = threading.Condition(threading.RLock())
        self._pauses = PauseReasons()
        self._process: subprocess.Popen[bytes] | None = None
        self._kill_at: float | None = None
        self._stopping = self._suspending = False
        self._hang_check = HangCheck(0.0)
        self._hung_s: float | None = None

    def use(self, training: Training) -> None:
        """Take the next worker's machine and number of threads, and the time to make progress in, from the settings."""
        address = parse_runner(training.runner)
        with self._changed:
            self._threads, self._hang_s = training.worker_threads, training.hang_s
            self._wanted = self._local
            if address is not None:
                self._wanted = SshRunner(address, self._records, self.command, training.runner_takes_model)

    @property
    def pid(self) -> int | None:
        """Return the worker's process id; None while none runs."""
        with self._changed:
            return self._process.pid if self._process else None

    def run(self, folder: Path, budget_bytes: int | None, *, is_requested: bool = False) -> WorkerExit | None:
        """Run a worker on the job directory within the memory budget until it ends; None if it was stopped before.

        It runs where nobody else wants to, or at a low priority if somebody has asked for it.
        """
        priority: Priority = "requested" if is_requested else "idle"
        wanted = self._wanted
        ended = self._run_by(wanted, folder, budget_bytes, priority)
        if ended is None or wanted.is_local or ended.suspended or ended.stopped or ended.exit_status == 0:
            return ended
        log.warning("trained_here_instead", job=folder.name, runner=wanted.name, reason=ended.log_tail)
        here = self._run_by(self._local, folder, budget_bytes, priority)
        return here and replace(here, not_there=f"{wanted.name}: {ended.log_tail}")

    def _run_by(self, runner: Runner, folder: Path, budget_bytes: int | None, priority: Priority) -> WorkerExit | None:
        memory_limit = self.memory_limit if runner.is_local else GUARD_ONLY
        with (folder / LOG_NAME).open("ab") as output, memory_limit.around(budget_bytes) as limit:
            log_start = output.tell()
            try:
                if not self._start(runner, folder, output, limit, priority):
                    return None
                exit_status = self._wait(folder)
            finally:
                with self._changed:
                    if self._process is not None:  # an error left it running
                        self._signal(signal.SIGKILL)
                        self._process.wait()
                        self._process = None
                    suspended, self._suspending = self._suspending, False
        tail = _tail(folder / LOG_NAME, log_start)
        return WorkerExit(exit_status, tail, limit, suspended, self._hung_s, runner.name)

    def running_threads(self) -> int:
        """Return how many threads of this device the worker keeps running just now."""
        with self._changed:
            runs = self._process is not None and self._runner.is_local and not self._pauses.active
            return self._threads if runs else 0

    @property
    def pause_reasons(self) -> frozenset[PauseReason]:
        """Return the reasons for which the worker is paused."""
        with self._changed:
            return self._pauses.active

    def paused_s(self) -> float:
        """Return for how long the worker has been paused; 0 where it is not."""
        with self._changed:
            return self._pauses.paused_s(time.monotonic())

    def take_pauses(self) -> dict[PauseReason, Pause]:
        """Return the pauses since the last call, those that go on included."""
        with self._changed:
            return self._pauses.take(time.monotonic())

    def pause(self, reason: PauseReason) -> None:
        """Pause the worker until `resume` is called with the same reason."""
        with self._changed:
            self._pauses.add(reason, time.monotonic())
            if not self._stopping and not self._suspending:  # one that is to write its checkpoint must not stand still
                self._signal(signal.SIGSTOP)

    def resume(self, reason: PauseReason) -> None:
        """End the pause for this reason; the worker goes on unless there is another one."""
        with self._changed:
            self._pauses.remove(reason, time.monotonic())
            if not self._pauses.active:
                self._signal(signal.SIGCONT)
                self._changed.notify_all()

    def suspend(self) -> None:
        """Ask the paused worker to checkpoint and end; another one is started once no pause is active."""
        with self._changed:
            if self._process is None or self._suspending or not self._pauses.active:
                return
            self._suspending = True
            self._ask_to_end(max(SUSPEND_S, self._grace_s))

    def stop(self) -> None:
        """Ask the worker to checkpoint and end, and kill it after the grace time."""
        with self._changed:
            self._stopping = True
            self._ask_to_end(self._grace_s)
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget `stop` and the user's pause: the next `run` starts a worker."""
        with self._changed:
            self._stopping = False
            self._kill_at = None
            self._pauses.reset()

    def _start(self, runner: Runner, folder: Path, output: BinaryIO, limit: Limit, priority: Priority) -> bool:
        """Start a worker once no pause is active; return False if it was stopped before."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._pauses.active)
            if self._stopping:
                return False
            self._runner, entrance = runner, str(limit.entrance or "")
            command = runner.command(folder, self._threads, priority)
            self._process = subprocess.Popen(
                [*launcher(entrance, runner.priority(priority)), *command],
                stdin=runner.stdin,
                stdout=output,
                stderr=output,
                env=worker_environment(self._threads),
                process_group=0,
            )
            if self._process.stdin is not None:  # a carrier that hangs must not keep anybody waiting
                os.set_blocking(self._process.stdin.fileno(), False)
            self._hang_check, self._hung_s = HangCheck(time.monotonic()), None
            record = {"pid": self._process.pid, "limit": limit.kind, "limit_bytes": limit.limit_bytes}
            write_atomically(folder / PID_NAME, json.dumps(record))
            return True

    def _wait(self, folder: Path) -> int:
        """Wait for the worker's exit status; polled, so that no signal goes to the process id once it is reaped."""
        while True:
            with self._changed:
                assert self._process is not None
                exit_status = self._process.poll()
                if exit_status is not None:
                    if self._process.stdin is not None:
                        self._process.stdin.close()
                    self._process, self._kill_at = None, None
                    return exit_status
                now = time.monotonic()
                signs = signs_of_life(folder / name for name in (ALIVE_FILE, PROGRESS_FILE, LOG_NAME))
                stalled_s = self._hang_check.stalled_s(signs, paused=bool(self._pauses.active), now=now)
                if stalled_s > self._hang_s:
                    self._hung_s = stalled_s
                if stalled_s > self._hang_s or (self._kill_at is not None and now > self._kill_at):
                    self._signal(signal.SIGKILL)
                self._changed.wait(POLL_S)

    def _ask_to_end(self, grace_s: float) -> None:
        self._kill_at = time.monotonic() + grace_s
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process hears SIGTERM only when it runs again

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._runner.signal(self._process, number)


def launcher(entrance: str, priority: Priority) -> list[str]:
    """Return the command that starts another one, which dies with this process; see `service.worker.launcher`."""
    return [sys.executable, _LAUNCHER, str(os.getpid()), entrance, priority]


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker with so many threads."""
    return torch_environment(os.environ, threads) | {"PYTHONUNBUFFERED": "1"}


def kill_stray(folder: Path) -> int | None:
    """Kill a worker that an earlier daemon left in this job directory, and return its process id.

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


def _tail(log: Path, start: int) -> str:
    """Return the last line written to the log since `start` (bytes); empty if there is none."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
