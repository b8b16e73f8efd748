"""The idle policy, one check at a time."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from service.schedule.idle_policy import LEAST_MEMORY_BYTES, DeviceState, decide
from service.settings.sections import Idle

IDLE = Idle()
GB = 10**9
CALM = DeviceState(
    request_age_s=math.inf,
    away_s=math.inf,
    others_cpu=0.01,
    load=0.1,
    on_battery=False,
    battery=1.0,
    celsius=50.0,
    throttled=False,
    available_bytes=4 * GB,
    memory_pressure=0.0,
    free_disk_bytes=9 * GB,
)
SAFETY = [
    ({"celsius": 85.0}, "heat", "the processor has 85 °C"),
    ({"throttled": True}, "throttling", "the processor is slowed down by heat or a weak supply"),
    ({"under_voltage": True}, "throttling", "the supply gives too low a voltage"),
    ({"under_voltage": True, "throttled": None}, "throttling", "the supply gives too low a voltage"),
    ({"available_bytes": LEAST_MEMORY_BYTES - 1}, "memory", "128 MiB of memory are free, it takes"),
    ({"memory_pressure": 40.0}, "pressure", "programs wait for memory 40% of the time"),
    ({"free_disk_bytes": 1}, "disk", "0 MiB of disk are free, it takes 512"),
    ({"on_battery": True, "battery": 0.1}, "battery", "it runs on its battery (10% full)"),
    (
        {"is_discharging": True, "battery": 0.1},
        "battery",
        "it takes more than its supply gives, and its battery is low (10% full)",
    ),
]
COURTESY = [
    ({"window": "shut"}, "window", "nothing is due at this hour"),
    ({"request_age_s": 0.0}, "recent requests", "the last reply was made just now, and 5 min of quiet are waited for"),
    ({"request_age_s": 200.0}, "recent requests", "the last reply was made 3 min ago"),
    ({"away_s": 30.0}, "people", "somebody was at the keyboard 30 s ago"),
    ({"others_cpu": 0.9, "busiest": "make"}, "cpu", "other programs take 90% of the processor (most of it: make)"),
    ({"others_cpu": 0.9, "busiest": "{x}"}, "cpu", "(most of it: {x})"),
    ({"load": 3.0}, "load", "the load is 3.0 a core"),
    ({"on_battery": True, "battery": 0.9}, "battery", "it runs on its battery (90% full)"),
    ({"window": "overdue", "request_age_s": 1000.0}, "recent requests", "30 min of quiet are waited for"),
    ({"window": "overdue", "away_s": 1000.0}, "people", "30 min of quiet are waited for"),
]


def told(device: DeviceState, **options) -> dict[str, str]:
    moment = decide(device, IDLE, **{"needs_bytes": 2 * GB, **options})
    return {check.name: check.message for check in moment.against}


def test_quiet_device_is_idle_and_so_is_one_without_any_measurement():
    assert told(CALM) == told(DeviceState()) == {}
    moment = decide(DeviceState(), IDLE, needs_bytes=2 * GB)
    assert moment.is_good
    assert moment.why == "nothing speaks against it"
    states = {check.name: check.state for check in moment.checks}
    assert states.pop("window") == "fine"
    assert set(states.values()) == {"unknown"}
    assert all(check.message for check in moment.checks)


@pytest.mark.parametrize(
    ("known", "state", "words"),
    [
        ({"under_voltage": False}, "fine", "the supply gives enough voltage"),  # a Pi 5 tells no more
        ({"under_voltage": False, "throttled": False}, "fine", "it runs at full speed"),
        ({}, "unknown", "whether the processor is slowed down is unknown"),
    ],
)
def test_the_speed_of_the_processor_is_said_only_where_it_is_known(known, state, words):
    checks = decide(DeviceState(**known), IDLE, needs_bytes=0).checks
    assert [(check.state, check.message) for check in checks if check.name == "throttling"] == [(state, words)]


@pytest.mark.parametrize(("change", "name", "words"), [*SAFETY, *COURTESY])
def test_each_problem_fails_its_own_check_and_no_other(change, name, words):
    found = told(replace(CALM, **change))
    assert set(found) == {name}
    assert words in found[name]
    assert words in decide(replace(CALM, **change), IDLE, needs_bytes=2 * GB).why


@pytest.mark.parametrize(("change", "name"), [(change, name) for change, name, _ in COURTESY])
def test_job_of_a_user_ignores_people_and_other_programs(change, name):
    assert told(replace(CALM, **change), trigger="user", needs_bytes=0) == {}


@pytest.mark.parametrize(("change", "name"), [(change, name) for change, name, _ in SAFETY])
def test_job_of_a_user_respects_heat_memory_disk_and_an_empty_battery(change, name):
    assert set(told(replace(CALM, **change), trigger="user", needs_bytes=0)) == {name}


@pytest.mark.parametrize(
    ("name", "field", "begin", "go_on"),
    [
        ("heat", "celsius", 70.0, 80.0),
        ("cpu", "others_cpu", 0.25, 0.5),
        ("load", "load", 1.0, 2.0),
        ("pressure", "memory_pressure", 5.0, 10.0),
    ],
)
def test_running_work_may_reach_the_limit_and_new_work_must_stay_below_it(name, field, begin, go_on):
    for value, running, fine in (
        (begin, False, True),
        (begin + 0.01, False, False),
        (go_on, True, True),
        (go_on + 0.01, True, False),
    ):
        assert (name not in told(replace(CALM, **{field: value}), running=running)) == fine


def test_running_work_continues_until_somebody_uses_the_device():
    for quiet, fine in ((0.0, False), (60.0, True)):
        assert bool(told(replace(CALM, request_age_s=quiet), running=True)) != fine
        assert bool(told(replace(CALM, away_s=quiet), running=True)) != fine
    assert told(replace(CALM, window="overdue", away_s=60.0), running=True) == {}


def test_available_memory_must_cover_what_the_worker_will_take():
    sight = replace(CALM, available_bytes=1 * GB)
    assert set(told(sight)) == {"memory"}
    assert told(sight, needs_bytes=0) == {}


def test_scheduled_run_may_use_the_battery_where_the_settings_allow_it():
    idle = Idle(on_battery=True)
    sight = replace(CALM, on_battery=True, battery=0.9)
    assert decide(sight, idle, needs_bytes=0).is_good
    assert not decide(replace(sight, battery=0.15), idle, needs_bytes=0).is_good


def test_every_field_of_the_device_state_is_checked():
    """A field of a sight that nothing depends on would be a probe for nothing."""
    amiss = {name for change, _, _ in (*SAFETY, *COURTESY) for name in change}
    assert amiss == {field.name for field in fields(DeviceState)}
