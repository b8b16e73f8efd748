"""What a device's costs are made of, and when they are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lars_agent.lars.config import LarsConfig
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning import calibrate
from lars_agent.planning.calibrate import costs_of
from lars_agent.planning.costs import DEFAULT_COSTS, Costs, Line, step_seconds
from lars_agent.records import from_json, to_json
from tests.planning.test_planner import LOAD, SMOLLM2
from tests.tiny import save_tiny

PLAN = MemoryPlan(micro_batch=4)


@pytest.mark.parametrize("bits", [None, 16, 4])
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_one_layer_of_any_model_is_measured_without_its_weights(tmp_path, monkeypatch, family, bits):
    monkeypatch.setattr(calibrate, "LONG_PROMPT", 128)
    monkeypatch.setattr(calibrate, "MANY", 80)
    folder = save_tiny(tmp_path / "m", family)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    costs = costs_of(folder, LarsConfig(), torch.float32, bits)[0]
    assert costs.read.at(100) > 0
    assert costs.backward.at(100) > 0
    assert costs.started_bytes >= 0
    assert from_json(Costs, to_json(costs)) == costs


@pytest.mark.parametrize(
    "slower",
    [
        {"recompute": True, "micro_batch": 1},
        {"prompt_chunk": 64},
        {"loss_chunk": 8},
        {"mlp_tile": 16},
        {"saved": "disk"},
        {"optimizer_bits": 8},
    ],
    ids=str,
)
def test_each_lever_costs_time(slower):
    costs = replace(DEFAULT_COSTS, mlp=Line(1e-4, 1e-6), loss=Line(1e-7, 1e-8))
    seconds = [step_seconds(SMOLLM2, LOAD, replace(PLAN, **change), costs) for change in ({}, slower)]
    assert seconds[1] > seconds[0]


def test_the_rehearsal_and_the_rest_of_a_batch_count():
    whole = step_seconds(SMOLLM2, LOAD, PLAN, DEFAULT_COSTS)
    shorter = replace(LOAD, steps=(LOAD.steps[0][:7],))
    assert step_seconds(SMOLLM2, shorter, PLAN, DEFAULT_COSTS) < whole
    assert step_seconds(SMOLLM2, replace(LOAD, rehearsals=(((96, 96),),)), PLAN, DEFAULT_COSTS) > whole
