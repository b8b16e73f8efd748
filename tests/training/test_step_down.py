"""When memory runs short a smaller plan goes on from the last step, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lars_agent.errors import BudgetExceeded, JobInvalid, MemoryPressure
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training.config import TrainConfig
from lars_agent.training.job_directory import PLAN_FILE, TRAIN_FILE, read_progress, read_result, write_examples
from lars_agent.training.job_plan import JobPlan, promised_bytes
from lars_agent.training.trainer import Trainer
from tests.tiny import COMMON, adapter_state, tiny_tokenizer
from tests.training.conftest import fact
from tests.training.test_trainer import CONFIG, trainer
from tests.training.test_worker import job, run

SMALLER = MemoryPlan(micro_batch=1)


def pressed(made: Trainer, calls: set[int], plan: MemoryPlan) -> Trainer:
    """The trainer after a run in which memory ran short at those calls of `check`, and `plan` was taken."""
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count in calls:
            raise MemoryPressure("near", 10)

    made._smaller_plan = lambda held_bytes: plan
    made.run(check=check)
    assert count > max(calls)
    return made


def same(one: Trainer, other: Trainer) -> bool:
    a, b = adapter_state(one.adapter), adapter_state(other.adapter)
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_step_that_is_done_again_leaves_no_trace():
    undisturbed = trainer()
    undisturbed.run()
    calls = {1, 5, 6, 11, 16}  # in an evaluation, in steps, in the same step twice
    assert same(pressed(trainer(), calls, undisturbed.plan), undisturbed)


def test_from_that_step_on_the_smaller_plan_holds():
    smaller = trainer()
    smaller.plan = SMALLER
    smaller.run()
    made = pressed(trainer(), {1}, SMALLER)
    assert made.plan == SMALLER
    assert same(made, smaller)


def test_moments_go_over_into_the_bits_of_the_smaller_plan():
    made = pressed(trainer(), {9}, MemoryPlan(optimizer_bits=8))
    assert made.optimizer.bits == 8
    assert made.progress.step == CONFIG.steps


def test_without_a_smaller_plan_the_run_raises_budget_exceeded():
    made = trainer(TrainConfig(steps=3))

    def check() -> None:
        raise MemoryPressure("near", 1234)

    with pytest.raises(BudgetExceeded, match="1,234 bytes"):
        made.run(check=check)


def planned(peak: int, size: int) -> dict:
    return {"plan": asdict(MemoryPlan(micro_batch=size)), "predicted_peak_bytes": peak}


def test_a_record_steps_over_plans_that_save_too_little_and_keeps_what_it_left(tmp_path):
    first = planned(1000, 8) | {"smaller": [planned(990, 7), planned(800, 4), planned(700, 1)], "stepped_down": []}
    (tmp_path / PLAN_FILE).write_text(json.dumps(first))
    made = JobPlan.read_or_make(tmp_path, lambda: pytest.fail("there is one")).step_down(1010, at_step=3)
    assert made is not None
    made.write(tmp_path)
    again = JobPlan.read_or_make(tmp_path, lambda: pytest.fail("there is one"))
    assert again == made
    assert (again.plan.micro_batch, again.predicted_peak_bytes) == (4, 800)
    left = {"plan": asdict(MemoryPlan(micro_batch=8)), "predicted_peak_bytes": 1000}
    assert again.stepped_down == (left | {"step": 3, "held_bytes": 1010},)
    assert promised_bytes(tmp_path) == 1000
    last = again.step_down(1010, at_step=4)
    assert last is not None
    assert last.step_down(1010, at_step=5) is None


def test_a_damaged_plan_file_is_an_error_that_names_it_and_predicts_nothing(tmp_path):
    (tmp_path / PLAN_FILE).write_text('{"plan": {')
    with pytest.raises(JobInvalid, match=r"plan\.json is not valid JSON"):
        JobPlan.read_or_make(tmp_path, list)
    assert promised_bytes(tmp_path) is None


def test_a_worker_whose_plan_takes_too_much_steps_down_and_ends_within_its_budget(tmp_path):
    """A real worker, told to keep every activation of long replies: half a gigabyte that its budget has no room for."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5, "max_position_embeddings": 2048}
    model = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**COMMON | sizes)).to(torch.bfloat16).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    greedy = {"micro_batch": 8, "recompute": False}
    training = {"steps": 2, "batch_size": 8, "evaluate_every": 2, "rehearsal_batch": 0, "max_seq_len": 2048}
    budget = 700_000_000
    folder = job(tmp_path / "job", model, plan=greedy, training=training, dtype="float32", budget_bytes=budget)
    write_examples(folder / TRAIN_FILE, [fact(f"Question {number}?", "word " * 320) for number in range(8)])
    assert run(folder) == 0
    result = read_result(folder)
    assert result is not None
    assert (result.status, result.error) == ("succeeded", None)
    assert result.stepped_down
    assert result.stepped_down[0]["plan"]["micro_batch"] == 8
    assert result.stepped_down[0]["held_bytes"] <= budget
    assert [line["step"] for line in read_progress(folder) if line["phase"] == "training"] == [1, 2]
    assert result.predicted_peak_bytes > budget  # what was asked for
    assert JobPlan.read_or_make(folder, list).predicted_peak_bytes < budget
