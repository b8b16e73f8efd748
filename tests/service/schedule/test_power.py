"""Power supplies, on trees like those of real devices: what counts as battery power, and how full the batteries are."""

from __future__ import annotations

import pytest

from service.schedule.idle_policy import DeviceState, decide
from service.schedule.power import power
from service.settings.sections import Idle
from tests.service.schedule.test_device import tree

AC_ON, AC_OFF = {"AC": {"type": "Mains", "online": "1"}}, {"AC": {"type": "Mains", "online": "0"}}
PORTS = {"ucsi-source-psy-1": {"type": "USB", "online": "0"}, "ucsi-source-psy-2": {"type": "USB", "online": "0"}}
POWERED_PORT = {"ucsi-source-psy-3": {"type": "USB", "online": "2"}}  # a programmable supply
MOUSE = {"hidpp_battery_0": {"type": "Battery", "scope": "Device", "capacity": "5", "status": "Discharging"}}
PHONE = {"ucsi-source-psy-4": {"type": "USB", "scope": "Device", "online": "1"}}  # which this device charges
BAY = {"BAT1": {"type": "Battery", "present": "0", "capacity": "0", "status": "Discharging"}}
BIG = {"energy_now": "36000000", "energy_full": "40000000", "energy_full_design": "57000000", "capacity": "90"}
SMALL = {"energy_now": "1000000", "energy_full": "10000000", "capacity": "10"}


def battery(status: str | None, name: str = "BAT0", **files: str) -> dict[str, dict[str, str]]:
    return {name: {"type": "Battery", **files} | ({} if status is None else {"status": status})}


@pytest.mark.parametrize(
    ("supplies", "on_battery", "is_discharging"),
    [
        ({}, None, False),
        (MOUSE, None, False),
        (AC_ON, False, False),
        (AC_ON | MOUSE, False, False),
        (PORTS, None, False),
        ({"AC": {"type": "Mains"}}, None, False),
        (battery("Discharging"), True, True),
        (AC_OFF | battery("Discharging"), True, True),
        (PORTS | PHONE | battery("Discharging"), True, True),
        (AC_ON | battery("Charging"), False, False),
        (AC_ON | battery("Discharging"), False, True),
        (PORTS | POWERED_PORT | battery("Discharging"), False, True),
        (PORTS | battery("Full"), False, False),
        (AC_OFF | battery("Not charging"), False, False),
        (PORTS | battery("Charging"), False, False),
        (AC_OFF | battery("Unknown"), None, False),
        (AC_ON | battery("Unknown"), False, False),
        (battery(None), None, False),
        (AC_OFF | battery("Full") | battery("Discharging", "BAT1"), True, True),
        (AC_ON | BAY, False, False),
        ({"hid-ups": {"type": "UPS", "status": "Discharging"}}, True, True),
        ({"wireless": {"type": "Wireless", "online": "1"}} | battery("Unknown"), False, False),
    ],
)  # fmt: skip
def test_a_battery_powers_the_device_only_while_it_discharges_and_nothing_else_does(
    tmp_path, supplies, on_battery, is_discharging
):
    tree(tmp_path / "class/power_supply", supplies)
    found = power(tmp_path)
    assert (found.on_battery, found.is_discharging) == (on_battery, is_discharging)


@pytest.mark.parametrize(
    ("batteries", "charge"),
    [
        ([{"capacity": "55"}], 0.55),
        ([{"capacity": "much"}], None),
        ([{}], None),
        ([{"capacity": "104"}], 1.0),
        ([BIG, SMALL], 0.74),
        ([BIG, {"capacity": "10"}], 0.5),  # as large as the other one
        ([{"capacity": "80"}, {"capacity": "30"}], 0.55),
        ([{"energy_now": "5", "energy_full": "0", "capacity": "40"}], 0.4),
        ([{"energy_now": "0", "energy_full": "40000000", "capacity": "40"}], 0.4),
        ([{"charge_now": "1000000", "charge_full_design": "4000000"}], 0.25),
        ([BIG, {"charge_now": "0", "capacity": "0", "charge_full": "2500000", "voltage_min_design": "4000000"}], 0.72),
        ([{"charge_now": "4", "charge_full": "4"}, {"charge_now": "3", "charge_full": "12"}], 0.4375),
    ],
)
def test_batteries_count_by_the_energy_that_they_hold_when_full(tmp_path, batteries, charge):
    for number, files in enumerate(batteries):
        tree(tmp_path / "class/power_supply", battery("Discharging", f"BAT{number}", **files))
    tree(tmp_path / "class/power_supply", MOUSE)
    assert power(tmp_path).charge == (None if charge is None else pytest.approx(charge))


@pytest.mark.parametrize("trigger", ["user", "schedule"])
@pytest.mark.parametrize(
    ("supplies", "state"),
    [
        (AC_ON | battery("Discharging", capacity="15"), "against"),
        (AC_ON | battery("Discharging", capacity="60"), "fine"),
        (AC_ON | battery("Discharging"), "fine"),
        (AC_ON | battery("Charging", capacity="15"), "fine"),
        (AC_ON | battery("Discharging", **SMALL) | battery("Not charging", "BAT1", **BIG), "fine"),
        (AC_ON | battery("Discharging", **BIG | {"energy_now": "2000000"}) | battery("Full", "BAT1", **SMALL),
         "against"),
    ],
)  # fmt: skip
def test_a_supply_that_gives_too_little_counts_as_a_low_battery_once_that_is_low(tmp_path, supplies, state, trigger):
    tree(tmp_path / "class/power_supply", supplies)
    on_battery, charge, is_discharging = power(tmp_path)
    device = DeviceState(on_battery=on_battery, battery=charge, is_discharging=is_discharging)
    (check,) = (one for one in decide(device, Idle(), needs_bytes=0, trigger=trigger).checks if one.name == "battery")
    assert check.state == state
    assert ("takes more than its supply gives" in check.message) == (state == "against")
