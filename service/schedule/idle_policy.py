"""Decide from the device's state whether training may run now. Pure.

A value that the device cannot report (a board has no battery, a server no keyboard) is None: it blocks nothing and is
shown as unknown. Work that runs is held to the limits themselves; work that has not begun must stay below them by a
margin, so that a device that is warm from the work itself does not stop it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from service.settings.sections import Idle
from service.worker.pause_reasons import PauseReason

Window = Literal["open", "overdue", "shut"]  # the schedule's: now; past, but a run is still due; nothing is due
Trigger = Literal["user", "schedule"]
State = Literal["fine", "against", "unknown"]

COOL_BY = 10.0  # degrees below the limit at which work may begin
SINCE_S = 3.0  # use of the device within this time stops running work
CALMER = 0.5  # of the limits of load and pressure, below which work may begin
LOW_BATTERY = 0.2  # charge at which work stops
LEAST_MEMORY_BYTES = 128 * 2**20  # left for other programs
UNDER_VOLTAGE = "the supply gives too low a voltage; use the board's own power supply and a short cable"
WINDOW_MESSAGES: dict[Window, str] = {
    "open": "it is the time for it",
    "overdue": "the window is past, and its run is still due",
    "shut": "nothing is due at this hour",
}


@dataclass(frozen=True)
class DeviceState:
    """Measurements of the device at one moment; None is unknown.

    Attributes:
        request_age_s: seconds since the last reply; 0 while one is generated, infinite if there was none.
        away_s: seconds since keyboard or mouse were last used.
        others_cpu: share of all cores, 0 to 1, that other programs use; `busiest` is the one that uses most.
        load: the one-minute load average per core, without our own worker's threads.
        battery: its charge, 0 to 1; `on_battery` is true while it powers the device, `is_discharging` also while it
            helps out a supply that gives too little.
        throttled: true while the firmware slows the processor down (heat, weak supply).
        memory_pressure: percent of the last ten seconds in which some program waited for memory (PSI).
        under_voltage: true while the supply gives too low a voltage.
    """

    window: Window = "open"
    request_age_s: float | None = None
    away_s: float | None = None
    others_cpu: float | None = None
    busiest: str | None = None
    load: float | None = None
    on_battery: bool | None = None
    battery: float | None = None
    is_discharging: bool = False
    celsius: float | None = None
    throttled: bool | None = None
    available_bytes: int | None = None
    memory_pressure: float | None = None
    free_disk_bytes: int | None = None
    under_voltage: bool | None = None


@dataclass(frozen=True)
class Check:
    """The result of one check, with its reason as a message."""

    name: PauseReason
    state: State
    message: str


@dataclass(frozen=True)
class IdleDecision:
    """The results of all checks."""

    checks: tuple[Check, ...]

    @property
    def is_good(self) -> bool:
        """True if no check is against working now."""
        return not self.against

    @property
    def against(self) -> tuple[Check, ...]:
        """The checks that are."""
        return tuple(check for check in self.checks if check.state == "against")

    @property
    def why(self) -> str:
        """The reasons against working now, in one line."""
        return "; ".join(check.message for check in self.against) or "nothing speaks against it"


def decide(
    device: DeviceState, idle: Idle, *, needs_bytes: int, trigger: Trigger = "schedule", running: bool = False
) -> IdleDecision:
    """Check whether work may run now.

    `needs_bytes` is the memory that the worker has yet to take. Work that a user asked for ignores the window, people
    and other programs; heat, memory, disk and a low battery stop it all the same.
    """
    checks = [*_safety(device, idle, needs_bytes, running)]
    if trigger == "user":
        return IdleDecision((*checks, _power(device, idle, trigger)))
    window = _check("window", device.window != "shut", WINDOW_MESSAGES[device.window])
    return IdleDecision((window, *_people(device, idle, running), _power(device, idle, trigger), *checks))


def _people(device: DeviceState, idle: Idle, running: bool) -> Iterator[Check]:
    """Check that nobody is disturbed; outside the window the device must have been unused for longer."""
    overdue = device.window == "overdue"
    wait_s = _wait(idle.quiet_s, idle.late_quiet_s, overdue, running)
    yield _quiet(
        "recent requests", device.request_age_s, wait_s, "the last reply was made {}", "no reply was made for {}"
    )
    wait_s = _wait(idle.away_s, idle.late_quiet_s, overdue, running)
    yield _quiet(
        "people", device.away_s, wait_s, "somebody was at the keyboard {}", "nobody was at the keyboard for {}"
    )
    margin = 1.0 if running else CALMER
    busiest = f" (most of it: {device.busiest})" if device.busiest else ""  # any name, with braces too
    message = "other programs take {:.0%} of the processor" + busiest.replace("{", "{{").replace("}", "}}")
    unknown = "what other programs take of the processor is unknown"
    yield _below("cpu", device.others_cpu, margin * idle.max_cpu, message, unknown)
    yield _below("load", device.load, margin * idle.max_load, "the load is {:.1f} a core", "the load is unknown")


def _wait(usual_s: float, overdue_s: float, overdue: bool, running: bool) -> float:
    """Return for how long the device must have been unused; any use stops running work, which then waits again."""
    if running:
        return min(usual_s, SINCE_S)
    return max(usual_s, overdue_s) if overdue else usual_s


def _quiet(name: PauseReason, quiet_s: float | None, wait_s: float, busy: str, calm: str) -> Check:
    if quiet_s is None:
        return Check(name, "unknown", busy.format("at an unknown time"))
    if quiet_s >= wait_s:
        return Check(name, "fine", calm.format(_span(quiet_s)))
    ago = "just now" if quiet_s < 1 else f"{_span(quiet_s)} ago"
    return Check(name, "against", f"{busy.format(ago)}, and {_span(wait_s)} of quiet are waited for")


def _span(seconds: float) -> str:
    if math.isinf(seconds):
        return "as long as the daemon has run"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _power(device: DeviceState, idle: Idle, trigger: Trigger) -> Check:
    if device.on_battery is None:
        return Check("battery", "unknown", "the power supply is unknown")
    charge = "" if device.battery is None else f" ({device.battery:.0%} full)"
    enough = device.battery is None or device.battery > LOW_BATTERY
    if not device.on_battery and device.is_discharging and not enough:
        return Check("battery", "against", f"it takes more than its supply gives, and its battery is low{charge}")
    if not device.on_battery:
        return Check("battery", "fine", "it runs on mains")
    allowed = idle.on_battery or trigger == "user"
    return _check("battery", allowed and enough, f"it runs on its battery{charge}")


def _safety(device: DeviceState, idle: Idle, needs_bytes: int, running: bool) -> Iterator[Check]:
    """Check what could harm the device or the programs on it."""
    limit = idle.max_celsius if running else idle.max_celsius - COOL_BY
    yield _below("heat", device.celsius, limit, "the processor has {:.0f} °C", "the temperature is unknown")
    yield _throttling(device)
    yield _at_least("memory", device.available_bytes, max(needs_bytes, LEAST_MEMORY_BYTES), "memory")
    limit = idle.max_memory_pressure if running else CALMER * idle.max_memory_pressure
    message = "programs wait for memory {:.0f}% of the time"
    yield _below("pressure", device.memory_pressure, limit, message, "the memory's pressure is unknown")
    yield _at_least("disk", device.free_disk_bytes, idle.min_free_disk_bytes, "disk")


def _throttling(device: DeviceState) -> Check:
    """Check that neither heat nor the supply slows the processor down."""
    if device.under_voltage:
        return Check("throttling", "against", UNDER_VOLTAGE)
    if device.throttled is None and device.under_voltage is False:
        return Check("throttling", "fine", "the supply gives enough voltage")
    message = "the processor is slowed down by heat or a weak supply" if device.throttled else "it runs at full speed"
    fine = None if device.throttled is None else not device.throttled
    return _check("throttling", fine, message, "whether the processor is slowed down is unknown")


def _check(name: PauseReason, fine: bool | None, message: str, unknown: str = "") -> Check:
    return Check(name, "unknown", unknown) if fine is None else Check(name, "fine" if fine else "against", message)


def _below(name: PauseReason, value: float | None, limit: float, message: str, unknown: str) -> Check:
    return Check(name, "unknown", unknown) if value is None else _check(name, value <= limit, message.format(value))


def _at_least(name: PauseReason, value: int | None, needed: int, what: str) -> Check:
    if value is None:
        return Check(name, "unknown", f"the free {what} is unknown")
    message = f"{value / 2**20:,.0f} MiB of {what} are free"
    return _check(name, value >= needed, message if value >= needed else f"{message}, it takes {needed / 2**20:,.0f}")
