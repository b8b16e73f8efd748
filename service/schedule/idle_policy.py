"""Whether this is a moment for a night's work, decided from what was seen of the device and its people. Pure.

Nothing is unknown by default: what a device cannot tell (a board has no battery, a server no keyboard) is None, speaks
neither for nor against, and is shown as unknown. Work that has begun is not broken off by what would merely have kept
it from beginning: a device that is warm from the work itself may go on being warm, up to the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from service.settings.sections import Idle
from service.worker.pause_reasons import PauseReason

__all__ = ["Check", "DeviceState", "IdleDecision", "Trigger", "Window", "decide"]

Window = Literal["open", "late", "shut"]  # of the schedule: now; past, but the night is owed; nothing is due
Trigger = Literal["user", "schedule"]  # who asked for the work
State = Literal["fine", "against", "unknown"]

COOL_BY = 10.0  # degrees below the limit, at which a device that was too hot may begin again
SINCE_S = 3.0  # how long ago somebody was there who stops running work
CALMER = 0.5  # of the limits of load and pressure, below which work may begin
LOW_BATTERY = 0.2  # work that the user asked for goes on to there
LEAST_MEMORY_BYTES = 128 * 2**20  # for all others


@dataclass(frozen=True)
class DeviceState:
    """What was seen at one moment; None is unknown.

    Attributes:
        request_age_s: seconds since the last request was answered; 0 while one is, infinite if there was none.
        away_s: seconds for which nobody has used keyboard or mouse.
        others_cpu: share of all cores, 0 to 1, that other programs take; `busiest` is the one that takes most of it.
        load: the one-minute load average a core, our own worker's threads left out.
        battery: its charge, 0 to 1; `on_battery` whether it feeds the device.
        throttled: whether the processor says that it is slowed down by heat or by a weak supply.
        memory_pressure: percent of the last ten seconds in which some program waited for memory (PSI).
    """

    window: Window = "open"
    request_age_s: float | None = None
    away_s: float | None = None
    others_cpu: float | None = None
    busiest: str | None = None
    load: float | None = None
    on_battery: bool | None = None
    battery: float | None = None
    celsius: float | None = None
    throttled: bool | None = None
    available_bytes: int | None = None
    memory_pressure: float | None = None
    free_disk_bytes: int | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what it says about the moment."""

    name: PauseReason
    state: State
    words: str


@dataclass(frozen=True)
class IdleDecision:
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against working now."""
        return not self.against

    @property
    def against(self) -> tuple[Check, ...]:
        """What does."""
        return tuple(check for check in self.checks if check.state == "against")

    @property
    def why(self) -> str:
        """One line for a person."""
        return "; ".join(check.words for check in self.against) or "nothing speaks against it"


def decide(
    sight: DeviceState, idle: Idle, *, needs_bytes: int, asked: Trigger = "schedule", running: bool = False
) -> IdleDecision:
    """What speaks for and against working now.

    `needs_bytes` is what the worker may take that it has not taken yet. Work that a user `asked` for does not wait for
    the night, for the people or for other programs; heat, memory, disk and a battery that runs low stop it all the
    same. `running` work is held to the limits themselves, work that has not begun must stay well below them.
    """
    checks = [*_safety(sight, idle, needs_bytes, running)]
    if asked == "user":
        return IdleDecision((*checks, _power(sight, idle, asked)))
    return IdleDecision((_window(sight), *_people(sight, idle, running), _power(sight, idle, asked), *checks))


def _window(sight: DeviceState) -> Check:
    words = {
        "open": "it is the time for it",
        "late": "the night's window is past, and its work still owed",
        "shut": "nothing is due at this hour",
    }
    return _check("window", sight.window != "shut", words[sight.window])


def _people(sight: DeviceState, idle: Idle, running: bool) -> Iterator[Check]:
    """Nobody is disturbed: outside the night's window only a device that has been left alone for long is taken."""
    late = sight.window == "late"
    wait_s = _wait(idle.quiet_s, idle.late_quiet_s, late, running)
    yield _quiet(
        "recent requests", sight.request_age_s, wait_s, "the last reply was made {}", "no reply was made for {}"
    )
    wait_s = _wait(idle.away_s, idle.late_quiet_s, late, running)
    yield _quiet("people", sight.away_s, wait_s, "somebody was at the keyboard {}", "nobody was at the keyboard for {}")
    limit = idle.max_cpu if running else CALMER * idle.max_cpu
    busiest = f" (most of it: {sight.busiest})" if sight.busiest else ""
    words = "other programs take {:.0%} of the processor" + busiest
    yield _below("cpu", sight.others_cpu, limit, words, "what other programs take of the processor is unknown")
    limit = idle.max_load if running else CALMER * idle.max_load
    yield _below("load", sight.load, limit, "the load is {:.1f} a core", "the load is unknown")


def _wait(usual_s: float, late_s: float, late: bool, running: bool) -> float:
    """How long a device must have been left alone; whoever comes stops running work, which then waits as long again."""
    if running:
        return min(usual_s, SINCE_S)
    return max(usual_s, late_s) if late else usual_s


def _quiet(name: PauseReason, quiet_s: float | None, wait_s: float, busy: str, calm: str) -> Check:
    if quiet_s is None:
        return Check(name, "unknown", f"{busy.format('at an unknown time')}")
    if quiet_s >= wait_s:
        return Check(name, "fine", calm.format(_span(quiet_s)))
    ago = "just now" if quiet_s < 1 else f"{_span(quiet_s)} ago"
    return Check(name, "against", f"{busy.format(ago)}, and {_span(wait_s)} of quiet are waited for")


def _span(seconds: float) -> str:
    if math.isinf(seconds):
        return "as long as the daemon has run"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _power(sight: DeviceState, idle: Idle, asked: Trigger) -> Check:
    if sight.on_battery is None:
        return Check("battery", "unknown", "the power supply is unknown")
    charge = "" if sight.battery is None else f" ({sight.battery:.0%} full)"
    if not sight.on_battery:
        return Check("battery", "fine", "it runs on mains")
    enough = sight.battery is None or sight.battery > LOW_BATTERY
    allowed = idle.on_battery or asked == "user"
    return _check("battery", allowed and enough, f"it runs on its battery{charge}")


def _safety(sight: DeviceState, idle: Idle, needs_bytes: int, running: bool) -> Iterator[Check]:
    """What could hurt the device or what it is used for."""
    limit = idle.max_celsius if running else idle.max_celsius - COOL_BY
    yield _below("heat", sight.celsius, limit, "the processor has {:.0f} °C", "the temperature is unknown")
    told = "the processor is slowed down by heat or a weak supply" if sight.throttled else "it runs at its own speed"
    yield _known("throttling", sight.throttled, told, "whether the processor is slowed down is unknown")
    yield _at_least("memory", sight.available_bytes, max(needs_bytes, LEAST_MEMORY_BYTES), "memory")
    limit = idle.max_memory_pressure if running else CALMER * idle.max_memory_pressure
    words = "programs wait for memory {:.0f}% of the time"
    yield _below("pressure", sight.memory_pressure, limit, words, "the memory's pressure is unknown")
    yield _at_least("disk", sight.free_disk_bytes, idle.min_free_disk_bytes, "disk")


def _check(name: PauseReason, fine: bool, words: str) -> Check:
    return Check(name, "fine" if fine else "against", words)


def _known(name: PauseReason, against: bool | None, words: str, unknown: str) -> Check:
    return Check(name, "unknown", unknown) if against is None else _check(name, not against, words)


def _below(name: PauseReason, value: float | None, limit: float, words: str, unknown: str) -> Check:
    return Check(name, "unknown", unknown) if value is None else _check(name, value <= limit, words.format(value))


def _at_least(name: PauseReason, value: int | None, needed: int, what: str) -> Check:
    if value is None:
        return Check(name, "unknown", f"the free {what} is unknown")
    words = f"{value / 2**20:,.0f} MiB of {what} are free"
    return _check(name, value >= needed, words if value >= needed else f"{words}, it takes {needed / 2**20:,.0f}")
