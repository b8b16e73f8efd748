"""Counts of the server's connections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

EndReason = Literal["full", "late"]  # another one needs its place, or it took too long


@dataclass
class ConnectionCounts:
    """Connections that are open, were accepted, and were ended by the daemon, by reason."""

    open: int = 0
    accepted: int = 0
    ended: Counter[EndReason] = field(default_factory=Counter)
