"""Alarms: problems with which the daemon goes on running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AlarmCode = Literal[
    "adapter_fallback",
    "adapter_rolled_back",
    "adapter_set_aside",
    "backup_failed",
    "clock_ahead",
    "clock_behind",
    "disk_full",
    "left_elsewhere",
    "not_learning",
    "not_recording",
    "read_only",
    "safe_mode",
]


@dataclass(frozen=True)
class Alarm:
    """A problem: its code, for monitors, without personal data; a message for the owner; the profile concerned."""

    code: AlarmCode
    message: str
    profile: str | None = None
