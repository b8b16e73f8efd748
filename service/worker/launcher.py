"""Launch the worker: bind its life to the daemon's, enter its cgroup, lower its priority, then exec it.

The arguments are the daemon's process id, the cgroup.procs file to enter (empty for none), the priority (`requested`
for a job that somebody asked for, or `idle`), and the worker's command.
It is a process of its own, because in a daemon with threads nothing may run between fork and exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
NICE = {"requested": 10, "idle": 19}
WORKER_OOM_SCORE_ADJ = 500


def _lower_priority(priority: str) -> None:
    """Take a low priority for processor and disk, and be killed first when memory runs out.

    `idle` runs where nobody else wants to; beside busy programs it may stand for hours.
    """
    os.nice(NICE[priority])
    if sys.platform == "linux" and priority == "idle":
        with contextlib.suppress(OSError):  # a sandbox that forbids it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with contextlib.suppress(psutil.Error, OSError):  # a kernel without I/O priorities
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(WORKER_OOM_SCORE_ADJ))
    except OSError:
        return  # no such file (macOS), or not ours to write: the worker is then one process among others


def main(arguments: list[str]) -> None:
    """Turn this process into the worker: it dies with the daemon, in its cgroup and at a low priority."""
    daemon_pid, cgroup, priority, *command = arguments
    if sys.platform == "linux":  # the kernel kills this process, stopped or not, as soon as the daemon is gone
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(daemon_pid):  # the daemon died before prctl had an effect
            raise SystemExit("the daemon that started this worker is gone")
    if cgroup:
        try:
            Path(cgroup).write_text("0")  # whoever writes it; from here on the memory limit counts
        except OSError as error:
            raise SystemExit(f"the worker cannot enter its cgroup ({cgroup}: {error.strerror})") from None
    _lower_priority(priority)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise SystemExit(f"{command[0]} cannot be started: {error.strerror}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
