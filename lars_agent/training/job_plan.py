"""plan.json: a job's memory plans, chosen from the lengths of its examples and its budget without reading weights.

A restarted worker continues with the plan in use.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from lars_agent.calibration import Calibration
from lars_agent.errors import BudgetTooSmall, JobInvalid
from lars_agent.files import write_atomically
from lars_agent.memory.allocator import allocator_name
from lars_agent.memory.measure import rss_bytes
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_tokenizer
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import Bits
from lars_agent.planning.calibrate import costs_of
from lars_agent.planning.costs import DEFAULT_COSTS, Costs
from lars_agent.planning.planner import EstimatedPlan, choose_plan, estimate_plan, keep_prompts, ladder, needed_bytes
from lars_agent.planning.shape import ModelShape, shape_of
from lars_agent.planning.workload import Batches, PromptLengths, Workload
from lars_agent.processor import core_count
from lars_agent.records import from_json, record, to_dict, to_json
from lars_agent.training.batches import Encoded, by_length, pad_id
from lars_agent.training.evaluate import general_text
from lars_agent.training.job_directory import PLAN_FILE, JobSpec, read_json
from lars_agent.training.job_rows import JobRows, encode_job

LEAST_GAIN = 0.03  # of the predicted peak that a smaller plan must save; less would not end the memory pressure


@record("plan file", JobInvalid)
class JobPlan:
    """Content of plan.json: the plan in use with its prediction (see `EstimatedPlan.as_dict`), and the others.

    Attributes:
        smaller: the plans left to try, in this order.
        stepped_down: each `plan` left for a smaller one, with its prediction, the `step`, and the `held_bytes` then.
    """

    plan: MemoryPlan
    predicted_peak_bytes: int
    least_budget_bytes: int | None = None
    step_seconds: float | None = None
    relative_time: float | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    smaller: tuple[Mapping[str, Any], ...] = ()
    stepped_down: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> JobPlan:
        """Return the plan in `folder`. Raises JobInvalid."""
        return from_json(cls, read_json(folder / PLAN_FILE), source=folder / PLAN_FILE)

    @classmethod
    def read_or_make(cls, folder: Path, make: Callable[[], Sequence[EstimatedPlan]]) -> JobPlan:
        """Return the plan in `folder`; if there is none, write the plans that `make` returns. Raises JobInvalid."""
        if (folder / PLAN_FILE).exists():
            return cls.read(folder)
        first, *smaller = [planned.as_dict() for planned in make()]
        made = from_json(cls, first | {"smaller": smaller})
        made.write(folder)
        return made

    def write(self, folder: Path) -> None:
        """Write plan.json into `folder`."""
        write_atomically(folder / PLAN_FILE, to_json(self))

    def step_down(self, held_bytes: int, at_step: int) -> JobPlan | None:
        """Return the job's plan with the next smaller one in use, or None if no other saves enough."""
        enough = (1 - LEAST_GAIN) * self.predicted_peak_bytes
        smaller = [planned for planned in self.smaller if planned["predicted_peak_bytes"] <= enough]
        if not smaller:
            return None
        left = {"plan": to_dict(self.plan), "predicted_peak_bytes": self.predicted_peak_bytes}
        left |= {"step": at_step, "held_bytes": held_bytes}
        return from_json(JobPlan, {**smaller[0], "smaller": smaller[1:], "stepped_down": [*self.stepped_down, left]})


def promised_bytes(folder: Path) -> int | None:
    """Return the predicted peak of the job's first plan, before any step down, or None without a valid plan.json."""
    try:
        plan = JobPlan.read(folder)
    except JobInvalid:
        return None
    return int(plan.stepped_down[0]["predicted_peak_bytes"]) if plan.stepped_down else plan.predicted_peak_bytes


def plan_job(folder: Path) -> dict[str, Any]:
    """Return the plans of the job in `folder` as JSON values, without loading the model or writing anything.

    `ladder` holds the Pareto-optimal plans, fastest first; `chosen` is the one of them for the budget, which may keep
    prompts, or null, with an `error` that names the least sufficient budget.
    """
    spec = JobSpec.read(folder)
    tokenizer = open_tokenizer(Path(spec.model_path))
    shape, load, size, costs = _planner_input(spec, encode_job(folder, spec, tokenizer), tokenizer)
    steps = ladder(shape, load, size, costs)
    plans: dict[str, Any] = {"budget_bytes": spec.budget_bytes, "chosen": None, "error": None}
    plans["ladder"] = [planned.as_dict() for planned in steps]
    try:
        chosen = _chosen(spec, steps, shape, load)
        if chosen.plan.kept_prompts:
            without = replace(chosen.plan, kept_prompts=0)
            plans["ladder"].insert([step.plan for step in steps].index(without), chosen.as_dict())
        return plans | {"chosen": chosen.as_dict()}
    except BudgetTooSmall as error:
        return plans | {"error": str(error)}


def write_plan(folder: Path) -> dict[str, Any]:
    """Write the plan by which a worker of this device trains into `folder`, unless there is one, and return it."""
    spec = JobSpec.read(folder)
    tokenizer = open_tokenizer(Path(spec.model_path))
    torch.set_num_threads(spec.threads or core_count())  # what a step costs is known by it
    return to_dict(
        JobPlan.read_or_make(folder, lambda: plans_for(spec, encode_job(folder, spec, tokenizer), tokenizer))
    )


def plans_for(spec: JobSpec, rows: JobRows, tokenizer: PreTrainedTokenizerFast) -> list[EstimatedPlan]:
    """Return the job's plans: the fastest within its budget, or the one that the job names, then the smaller ones.

    Raises BudgetTooSmall.
    """
    shape, load, size, costs = _planner_input(spec, rows, tokenizer)
    steps = ladder(shape, load, size, costs)
    if spec.plan:
        named = from_json(MemoryPlan, spec.plan)
        plan = replace(named, micro_batch=min(named.micro_batch, size))
        first = estimate_plan(plan, steps[0], shape, load, costs)
    else:
        first = _chosen(spec, steps, shape, load)
    smaller = [step for step in steps if step.estimate.peak_bytes < first.estimate.peak_bytes]
    fitting = [step for step in smaller if spec.budget_bytes is None or needed_bytes(step) <= spec.budget_bytes]
    return [first, *(fitting or smaller)]


def _chosen(spec: JobSpec, steps: Sequence[EstimatedPlan], shape: ModelShape, load: Workload) -> EstimatedPlan:
    """Return the fastest plan within the job's budget, with prompts kept in what that leaves. Raises BudgetTooSmall."""
    fastest = choose_plan(steps, spec.budget_bytes)
    return keep_prompts(fastest, spec.budget_bytes, spec.training.prompt_cache_bytes, shape, load)


def _planner_input(
    spec: JobSpec, job: JobRows, tokenizer: PreTrainedTokenizerFast
) -> tuple[ModelShape, Workload, int, Costs]:
    """Return the arguments of `ladder`, as measured in a process that has not loaded the model."""
    program_bytes = rss_bytes()
    costs = _costs(spec)
    dtype, bits = precision_of(spec)
    shape = shape_of(Path(spec.model_path), spec.lars, dtype, bits)
    number = job.steps() if job.train else 0
    steps = [[row for _, row in job.lessons(step)] for step in range(number)]
    evaluated = [job.scored, job.heldout, general_text(tokenizer)]
    if job.train and not job.config.steps:  # which are read together is known only once some have been learned
        steps += _longest(job)
    if job.is_continued:
        evaluated += [job.train]
    rehearsals = [passages for step in range(number) if (passages := job.passages(step))]
    rows = {row for part in (*evaluated[:2], *steps, *rehearsals) for row in part}
    token_ids = {token_id for row in rows for token_id in (*row.prompt, *row.reply)}
    load = Workload(
        prompts=tuple(
            PromptLengths(tuple(map(len, group.prompts)), group.reads, group.base_tokens)
            for group in (job.prompt_groups if job.train else ())
        ),
        steps=_lengths(steps),
        number_bytes=dtype.itemsize,
        program_bytes=program_bytes + costs.started_bytes,
        rehearsals=_lengths(rehearsals),
        evaluations=_lengths([by_length(part) for part in evaluated]),
        unread_bytes=shape.unread_bytes(token_ids | {0, pad_id(tokenizer)}),
    )
    return shape, load, job.config.batch_size, costs


def _longest(job: JobRows) -> list[list[Encoded]]:
    """Return batches as long as any that the job can read: of the longest prompts, replies, and both together."""
    count = job.config.batch_size * job.config.accumulation
    rows = [wording for row in job.train for wording in (row, *row.others)]
    measures: Sequence[Callable[[Encoded], int]] = (lambda row: len(row.prompt), lambda row: len(row.reply), len)
    return [by_length(sorted(rows, key=measure)[-count:]) for measure in measures]


def _lengths(batches: Sequence[Sequence[Encoded]]) -> Batches:
    return tuple(tuple((len(row.prompt), len(row.reply)) for row in rows) for rows in batches)


def _costs(spec: JobSpec) -> Costs:
    """Return the costs of a step's parts on this device, measured once; the built-in ones without a costs file."""
    if spec.costs_file is None:
        return DEFAULT_COSTS
    return Calibration(Path(spec.costs_file)).get(
        Costs, costs_name(spec), lambda: costs_of(Path(spec.model_path), spec.lars, *precision_of(spec))
    )


def precision_of(spec: JobSpec) -> tuple[torch.dtype, Bits | None]:
    """Return `dtype` and `weight_bits` that the job's model is opened with. Raises ConfigError."""
    return precision(spec.dtype, Path(spec.model_path), spec.costs_file)


def costs_name(spec: JobSpec) -> str:
    """Return the name by which the costs of a job's steps in this process are kept: device, model and threads."""
    device = f"{platform.node()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {allocator_name()}"
    dtype, bits = precision_of(spec)
    return f"{device}: {spec.model_sha256[:12]} {dtype} {bits} {spec.lars.pooling}"
