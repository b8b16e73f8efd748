"""How much memory a process holds, as its system counts it.

Resident is what lies in physical memory now. Its peak is what a budget promises to bound. The proportional set shares
pages that several processes map (the base model's weights) out among them, so that sums over processes are honest.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil

__all__ = ["peak_rss_bytes", "pss_bytes", "reset_peak", "rss_bytes"]

_PROC = Path("/proc")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): "reset the peak resident set size to the current value"


def rss_bytes(pid: int | None = None) -> int:
    """Resident bytes of this process, or of process `pid`. Raises ProcessLookupError when there is none."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"no process {pid}") from error


def peak_rss_bytes(pid: int | None = None) -> int:
    """The most resident bytes this process, or process `pid`, has held since it started, or since `reset_peak`.

    From Linux's VmHWM; elsewhere from getrusage, which `reset_peak` cannot reset and which knows this process alone.
    Raises ProcessLookupError when there is no such process.
    """
    peak = _bytes_after("VmHWM:", _PROC / ("self" if pid is None else str(pid)) / "status")
    if peak is not None:
        return max(peak, rss_bytes(pid))  # the kernel updates the mark only now and then
    if pid is not None:
        return rss_bytes(pid)
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def pss_bytes(pid: int | None = None) -> int:
    """Resident bytes of this process or of `pid`, each page divided by the number of processes that map it.

    Where the system does not count so, the bytes that are this process's alone. Raises ProcessLookupError when there
    is no such process, PermissionError when it is someone else's.
    """
    share = _bytes_after("Pss:", _PROC / ("self" if pid is None else str(pid)) / "smaps_rollup")
    if share is not None:
        return share
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"no process {pid}") from error
    except psutil.AccessDenied as error:
        raise PermissionError(f"the memory of process {pid} cannot be read") from error


def reset_peak() -> bool:
    """Whether `peak_rss_bytes` now counts from here on; False where the system does not allow it."""
    try:
        (_PROC / "self" / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _bytes_after(name: str, path: Path) -> int | None:
    """The figure that the kernel gives for `name` in `path`, None where it gives none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    figures = (line.split() for line in lines if line.startswith(name))
    return next((int(words[1]) * 1024 for words in figures), None)
