"""What a Raspberry Pi tells of its processor and its supply, on trees like those of a Pi 4 and a Pi 5."""

from __future__ import annotations

import pytest

from service.schedule.raspberry_pi import throttled, under_voltage
from tests.service.schedule.test_device import tree

PI4, PI5 = "soc", "soc@107c000000"


@pytest.mark.parametrize("bus", [PI4, PI5])
@pytest.mark.parametrize(
    ("flags", "slow", "weak"),
    [
        ("0", False, False),
        ("4", True, False),
        ("50000", False, False),
        ("50005", True, True),
        ("0x1", True, True),
        ("", None, None),
        ("many", None, None),
    ],
)
def test_flags_of_the_firmware_are_the_current_state_not_the_past(tmp_path, bus, flags, slow, weak):
    assert throttled(tmp_path) is under_voltage(tmp_path) is None
    tree(tmp_path / "devices/platform" / bus, {f"{bus}:firmware": {"get_throttled": flags}, f"{bus}:leds": {}})
    assert throttled(tmp_path) is slow
    assert under_voltage(tmp_path) is weak


@pytest.mark.parametrize(("alarm", "weak"), [("0", False), ("1", True), ("", None)])
def test_voltage_monitor_tells_of_a_weak_supply_where_the_firmware_tells_nothing(tmp_path, alarm, weak):
    others = {"hwmon0": {"name": "cpu_thermal", "temp1_input": "61000"}, "hwmon1": {"in0_lcrit_alarm": "1"}}
    tree(tmp_path / "class/hwmon", {**others, "hwmon2": {"name": "nvme", "in0_lcrit_alarm": "1"}})
    assert under_voltage(tmp_path) is None
    tree(tmp_path / "class/hwmon", {"hwmon3": {"name": "rpi_volt", "in0_lcrit_alarm": alarm}})
    assert under_voltage(tmp_path) is weak
    assert throttled(tmp_path) is None


def test_alarm_of_the_voltage_monitor_counts_beside_flags_that_are_always_zero(tmp_path):
    tree(tmp_path / "devices/platform/soc", {"soc:firmware": {"get_throttled": "0"}})
    tree(tmp_path / "class/hwmon", {"hwmon0": {"name": "rpi_volt", "in0_lcrit_alarm": "1"}})
    assert under_voltage(tmp_path) is True
    assert throttled(tmp_path) is False
