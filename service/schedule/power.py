"""The power supplies of the device, from /sys/class/power_supply (the kernel's ABI/testing/sysfs-class-power).

psutil's `sensors_battery` reads the first battery alone, a mouse's too, and believes a supply before the battery.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.schedule.sysfs import SYS, folders, read, read_number

BATTERIES = ("Battery", "UPS")
SUPPLIES = ("Mains", "USB", "Wireless")  # older kernels have USB_PD, USB_C and the like
SETTLED = ("Charging", "Full", "Not charging")
CELL_V = 3.7  # of a lithium cell, where a battery counts its charge and does not tell its voltage


class Power(NamedTuple):
    """The state of the power supplies; None is unknown.

    `on_battery` is true while a battery discharges and no supply is online; `charge`, 0 to 1, is that of all batteries
    together; `is_discharging` is also true while a supply is online that gives less than the device takes.
    """

    on_battery: bool | None = None
    charge: float | None = None
    is_discharging: bool = False


def power(sys: Path = SYS) -> Power:
    """Read the power supplies; batteries of a mouse or a headset, and empty bays, do not count."""
    present = [one for one in folders(sys / "class/power_supply") if read(one / "scope") != "Device"]
    batteries = [one for one in present if read(one / "type") in BATTERIES and read(one / "present") != "0"]
    supplies = [one for one in present if (read(one / "type") or "").startswith(SUPPLIES)]
    is_online = any(read(one / "online") not in (None, "", "0") for one in supplies)  # 2 is a programmable one
    statuses = {read(one / "status") for one in batteries}
    charge = _charge(batteries)
    if "Discharging" in statuses:
        return Power(not is_online, charge, is_discharging=True)
    return Power(False if is_online or not statuses.isdisjoint(SETTLED) else None, charge)


def _charge(batteries: Sequence[Path]) -> float | None:
    """Return the charge of all batteries that tell theirs, each by the energy it holds when full."""
    told = [(share, _full_wh(one)) for one in batteries if (share := _share(one)) is not None]
    energies = [full_wh for _, full_wh in told if full_wh is not None]
    usual_wh = sum(energies) / len(energies) if energies else 1.0  # of one that tells its share alone
    weighted = [(share, full_wh or usual_wh) for share, full_wh in told]
    return sum(share * weight for share, weight in weighted) / sum(wh for _, wh in weighted) if told else None


def _full_wh(battery: Path) -> float | None:
    """Return the energy of the full battery, watt hours."""
    if energy_uwh := _full(battery, "energy"):
        return energy_uwh / 1e6
    volts = [number / 1e6 for name in ("voltage_min_design", "voltage_now") if (number := read_number(battery / name))]
    charge_uah = _full(battery, "charge")
    return charge_uah / 1e6 * (volts[0] if volts else CELL_V) if charge_uah else None


def _share(battery: Path) -> float | None:
    """Return the charge of one battery, 0 to 1: what it holds of what it can, or else what the kernel makes of it."""
    for kind in ("energy", "charge"):
        now, full = read_number(battery / f"{kind}_now"), _full(battery, kind)
        if now and full:
            return min(now / full, 1.0)
    percent = read_number(battery / "capacity")
    return None if percent is None else min(percent / 100, 1.0)


def _full(battery: Path, kind: str) -> int | None:
    return read_number(battery / f"{kind}_full") or read_number(battery / f"{kind}_full_design")
