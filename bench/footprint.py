"""What a process holds right now, as the kernel counts it (proc_pid_smaps_rollup(5))."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

PROC = Path("/proc")
PRIVATE = ("Private_Clean", "Private_Dirty", "Private_Hugetlb")


@dataclass(frozen=True)
class Footprint:
    """Bytes: resident, resident with shared pages divided among those who map them, and this process's alone."""

    rss: int = 0
    pss: int = 0
    uss: int = 0

    def at_least(self, other: Footprint) -> Footprint:
        """The larger of each."""
        return Footprint(*(max(pair) for pair in zip(astuple(self), astuple(other), strict=True)))


def footprint_of(pid: int) -> Footprint | None:
    """None where the process has ended, or the system does not count so."""
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    kib = {words[0][:-1]: int(words[1]) for words in map(str.split, text.splitlines()[1:])}
    return Footprint(kib["Rss"] * 1024, kib["Pss"] * 1024, 1024 * sum(kib.get(name, 0) for name in PRIVATE))
