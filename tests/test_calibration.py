"""What was measured on this device is kept, and measured anew where that is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lars_agent.calibration import Calibration
from lars_agent.models.arithmetic import Arithmetic
from lars_agent.planning.costs import DEFAULT_COSTS, Costs

FRESH = replace(DEFAULT_COSTS, attend=1.0)


@pytest.fixture
def calibration(tmp_path):
    return Calibration(tmp_path / "state" / "costs.json")


def test_it_is_measured_once_for_each_name(calibration):
    assert calibration.get(Costs, "a", lambda: (FRESH, True)) == FRESH
    assert calibration.get(Costs, "a", lambda: (DEFAULT_COSTS, True)) == FRESH
    assert calibration.get(Costs, "b", lambda: (DEFAULT_COSTS, True)) == DEFAULT_COSTS


def test_records_of_several_kinds_lie_in_one_file(calibration):
    times = Arithmetic(bfloat16=1.0, float32=2.0)
    assert calibration.get(Costs, "a", lambda: (FRESH, True)) == FRESH
    assert calibration.get(Arithmetic, "b", lambda: (times, True)) == times
    assert calibration.get(Costs, "a", lambda: (DEFAULT_COSTS, True)) == FRESH
    assert calibration.get(Arithmetic, "b", lambda: (Arithmetic(bfloat16=3.0, float32=1.0), True)) == times


def test_what_was_measured_on_a_busy_device_is_used_and_not_kept(calibration):
    assert calibration.get(Costs, "a", lambda: (FRESH, False)) == FRESH
    assert calibration.get(Costs, "a", lambda: (DEFAULT_COSTS, True)) == DEFAULT_COSTS


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": {"read": 1}}'])
def test_a_torn_file_is_measured_anew(calibration, content):
    calibration.path.parent.mkdir()
    calibration.path.write_text(content)
    assert calibration.get(Costs, "a", lambda: (DEFAULT_COSTS, True)) == DEFAULT_COSTS
    assert calibration.get(Costs, "a", lambda: (FRESH, True)) == DEFAULT_COSTS
