"""Prompts that are read once and kept: the same numbers, within the bytes that were planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lars_agent.errors import MemoryPressure, Preempted
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning.estimate import estimate
from lars_agent.planning.planner import choose_plan, keep_prompts, ladder
from lars_agent.planning.shape import shape_of
from lars_agent.planning.workload import PromptLengths, Workload
from lars_agent.training.batches import encode, encode_text
from lars_agent.training.checkpoint import resume, save_checkpoint
from lars_agent.training.config import TrainConfig
from lars_agent.training.job_rows import JobRows
from lars_agent.training.trainer import Trainer
from tests.tiny import adapter_state, save_tiny, tiny_model, tiny_tokenizer
from tests.training.conftest import FACTS, HELD_OUT

CONFIG = TrainConfig(
    steps=9, batch_size=4, learning_rate=2e-2, warmup_steps=2, evaluate_every=3, checkpoint_every=2, rehearsal_batch=2
)
ALL = 100  # groups: more than there are


def job_rows() -> JobRows:
    """Examples in several wordings, two of them with the same question, and general text."""
    tokenizer = tiny_tokenizer()
    train, heldout = ([encode(tokenizer, one, 500) for one in some] for some in (FACTS, HELD_OUT))
    first = replace(train[0], others=(replace(train[0], prompt=train[1].prompt), train[3]))
    texts = [encode_text(tokenizer, "Once upon a time there was a " * count, str(count)) for count in (1, 2, 3)]
    return JobRows(CONFIG, [first, *train[1:]], heldout, texts)


def trainer(plan: MemoryPlan, dtype: torch.dtype = torch.float32, **lars) -> Trainer:
    model = tiny_model("llama").to(dtype)
    assert use_grouped_attention(model)
    adapter = LarsAdapter.for_model(model, LarsConfig(rank=4, **lars), seed=3)
    return Trainer(attach(model), adapter, job_rows(), pad_id=0, plan=plan)


def trained(plan: MemoryPlan, **options) -> Trainer:
    made = trainer(plan, **options)
    assert made.run()
    return made


def distance(one: Trainer, other: Trainer) -> float:
    states = [torch.cat([tensor.flatten() for tensor in adapter_state(each.adapter).values()]) for each in (one, other)]
    return float((states[0] - states[1]).abs().max())


@pytest.mark.parametrize(
    ("kept", "plan", "lars"),
    [
        (1, MemoryPlan(), {}),
        (3, MemoryPlan(micro_batch=2, prompt_chunk=16, recompute=False), {}),
        (ALL, MemoryPlan(micro_batch=2), {}),
        (ALL, MemoryPlan(), {"top_layers": 1}),
    ],
)
def test_training_is_the_same_as_when_every_step_reads_its_prompts(kept, plan, lars):
    read_anew, once = trained(plan, **lars), trained(replace(plan, kept_prompts=kept), **lars)
    assert distance(read_anew, once) < 1e-4
    assert once.progress.loss == pytest.approx(read_anew.progress.loss, rel=1e-4)


def test_no_prompt_is_read_twice(monkeypatch):
    made, read = trainer(MemoryPlan(kept_prompts=ALL)), []
    reading = made.prompts._read

    def noted(prompts, plan, *, keep):
        read.extend(prompts)
        return reading(prompts, plan, keep=keep)

    monkeypatch.setattr(made.prompts, "_read", noted)
    made.run()
    assert len(read) == len(set(read))
    assert set(read) == {prompt for group in made.rows.prompt_groups for prompt in group.prompts}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_takes_the_bytes_that_were_planned(tmp_path, dtype):
    made = trained(MemoryPlan(kept_prompts=ALL), dtype=dtype)
    groups = [
        PromptLengths(tuple(map(len, group.prompts)), group.reads, group.base_tokens)
        for group in made.rows.prompt_groups
    ]
    load = Workload((((3, 3),),), dtype.itemsize, 0, prompts=tuple(groups))
    shape = shape_of(save_tiny(tmp_path, "llama"), LarsConfig(rank=4), dtype)
    assert estimate(shape, load, made.plan).kept_prompts == made.prompts.nbytes
    made.prompts.clear()
    assert made.prompts.nbytes == 0


@pytest.mark.parametrize("kept", [2, ALL])
def test_a_run_that_was_interrupted_and_has_nothing_kept_ends_in_the_same_bytes(tmp_path, kept):
    plan = MemoryPlan(kept_prompts=kept)
    whole = trained(plan)
    for stop_at in (2, 7, 11):
        made, calls = trainer(plan), []

        def check(calls=calls, stop_at=stop_at) -> None:
            calls.append(None)
            if len(calls) == stop_at:
                raise Preempted("now")

        folder = tmp_path / str(stop_at)
        folder.mkdir()
        made.best_file = folder / "best"
        made.run(check=check, on_checkpoint=lambda trainer, folder=folder: save_checkpoint(trainer, folder))
        again = trainer(plan)
        again.best_file = folder / "best"
        resume(again, folder)
        assert again.run()
        assert distance(again, whole) == 0


def test_under_memory_pressure_all_is_freed_and_training_goes_on():
    made, calls = trainer(MemoryPlan(kept_prompts=ALL)), []
    made._smaller_plan = lambda held_bytes: MemoryPlan()

    def check() -> None:
        calls.append(made.prompts.nbytes)
        if len(calls) == 8:
            raise MemoryPressure("near", 10)

    assert made.run(check=check)
    assert calls[7] > 0
    assert set(calls[8:]) == {0}


def test_as_much_is_kept_as_the_budget_and_the_setting_leave_room_for(tmp_path):
    shape = shape_of(save_tiny(tmp_path, "llama"), LarsConfig(rank=4))
    groups = (*[PromptLengths((40, 30), 3.0)] * 5, PromptLengths((9,), 1.0))
    load = Workload((((40, 8),),) * 3, 2, 1_000_000, prompts=groups)
    (fastest, *_) = ladder(shape, load, 1)
    one = estimate(shape, load, MemoryPlan(kept_prompts=1)).kept_prompts

    def kept(budget_bytes: int | None, most_bytes: int) -> int:
        planned = keep_prompts(choose_plan([fastest], budget_bytes), budget_bytes, most_bytes, shape, load)
        assert planned.estimate.peak_bytes == fastest.estimate.peak_bytes + one * planned.plan.kept_prompts
        assert budget_bytes is None or planned.as_dict()["least_budget_bytes"] <= budget_bytes
        return planned.plan.kept_prompts

    peak = fastest.estimate.peak_bytes
    assert [kept(None, 2**40), kept(None, 3 * one), kept(None, 0)] == [5, 3, 0]
    assert [kept(int(1.05 * (peak + count * one)) + 9, 2**40) for count in (0, 2, 5)] == [0, 2, 5]
    padded = keep_prompts(fastest, None, 2**40, replace(shape, packed=False), load)
    assert padded.plan.kept_prompts == 0
