"""Measure the memory of a process: resident set, its peak, and proportional set.

The budget bounds the peak. The proportional set divides pages that several processes map (the base model's weights)
among them, so that sums over processes are correct.
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil

_PROC = Path("/proc")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): "reset the peak resident set size to the current value"


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident bytes of this process, or of `pid`. Raises ProcessLookupError."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"no process {pid}") from error


def peak_rss_bytes(pid: int | None = None) -> int:
    """Return the peak resident bytes of this process, or of `pid`, since its start or `reset_peak`.

    From Linux's VmHWM; elsewhere from getrusage, which cannot be reset and only covers this process. Raises
    ProcessLookupError.
    """
    try:
        status = (_PROC / str(pid or "self") / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    if peak := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
        return max(int(peak[1]) * 1024, rss_bytes(pid))  # the kernel updates VmHWM with a delay
    if pid is not None:
        return rss_bytes(pid)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def pss_bytes() -> int:
    """Return the proportional set size of this process; its unshared bytes where that is not available."""
    memory = psutil.Process().memory_full_info()
    return int(getattr(memory, "pss", memory.uss))


def reset_peak() -> bool:
    """Reset `peak_rss_bytes` to the current value; return False if the system does not support it."""
    try:
        (_PROC / "self" / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
