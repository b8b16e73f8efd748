"""Limits that a Raspberry Pi's firmware puts on the processor, and the alarm of its supply; other boards have neither.

The flags (`get_throttled`) are in sysfs up to the Pi 4, under the vendor's kernel alone; the voltage monitor's alarm
(the kernel's Documentation/hwmon/raspberrypi-hwmon.rst) is on all, and the only one of a Pi 5. Both tell the present.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from service.schedule.sysfs import SYS, folders, read

UNDER_VOLTAGE, SLOWED_DOWN = 0b0001, 0b1111  # the flags of now: weak supply, capped, throttled, soft limit of heat
MONITOR = "rpi_volt"


def throttled(sys: Path = SYS) -> bool | None:
    """Return whether the firmware slows the processor down now."""
    flags = _flags(sys)
    return None if flags is None else bool(flags & SLOWED_DOWN)


def under_voltage(sys: Path = SYS) -> bool | None:
    """Return whether the supply gives too low a voltage now."""
    flags = _flags(sys)
    told = [] if flags is None else [bool(flags & UNDER_VOLTAGE)]
    monitors = [one for one in folders(sys / "class/hwmon") if read(one / "name") == MONITOR]
    told += [alarm == "1" for one in monitors if (alarm := read(one / "in0_lcrit_alarm")) in ("0", "1")]
    return any(told) if told else None


def _flags(sys: Path) -> int | None:
    """Return the firmware's flags; the folder is named by the board, such as soc/soc:firmware."""
    for bus in folders(sys / "devices/platform"):
        if bus.name.startswith("soc"):
            with contextlib.suppress(ValueError):
                return int(read(bus / f"{bus.name}:firmware/get_throttled") or "", 16)
    return None
