"""Something that is wrong with the daemon, which goes on all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Alarm = Literal["adapter_fallback", "adapter_set_aside", "not_learning", "not_recording", "safe_mode"]


@dataclass(frozen=True)
class Problem:
    """A code for monitors, which tells nothing private, the words for the owner, and whose adapter it is about."""

    alarm: Alarm
    words: str
    profile: str | None = None
