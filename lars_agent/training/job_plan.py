"""A job's examples as tokens, and the plan that their lengths and the job's budget ask for; no weight is read."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import BudgetTooSmall, ExampleTooLong, ModelUnsupported
from lars_agent.example import Example
from lars_agent.memory.allocator import allocator_name
from lars_agent.memory.measure import rss_bytes
from lars_agent.models.open import compute_dtype, open_tokenizer, precision
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning.calibrate import Calibration, costs_of
from lars_agent.planning.costs import DEFAULT_COSTS, Costs
from lars_agent.planning.planner import EstimatedPlan, choose_plan, estimate_plan, ladder, needed_bytes
from lars_agent.planning.shape import ModelShape, shape_of
from lars_agent.planning.workload import Batches, Workload
from lars_agent.records import from_json
from lars_agent.training.batches import Encoded, by_length, encode, pad_id, step_rows
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import NEWEST, REHEARSAL_TEXT, general_text
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, read_examples


def encoded(folder: Path, spec: JobSpec, tokenizer: PreTrainedTokenizerFast) -> tuple[list[Encoded], list[Encoded]]:
    """What the job learns and what it is judged by, as tokens.

    What is too long, or what the model's chat template refuses, is left out and said so on stderr. Where that takes all
    there is to judge by, one of the others is judged by instead.
    """
    train, heldout = (_rows(folder / name, spec, tokenizer) for name in (TRAIN_FILE, HELDOUT_FILE))
    if not heldout and len(train) > 1:
        heldout = [train.pop()]
    return train, heldout


def plan_job(folder: Path) -> dict[str, Any]:
    """What the job in `folder` would be planned as; nothing is loaded or written.

    `chosen` is the plan (null where no plan fits, and `error` says what would), `ladder` all that are worth having,
    fastest first.
    """
    spec = JobSpec.read(folder)
    tokenizer = open_tokenizer(Path(spec.model_path))
    train, heldout = encoded(folder, spec, tokenizer)
    steps = ladder(*_asked(spec, train, heldout, tokenizer))
    record: dict[str, Any] = {"budget_bytes": spec.budget_bytes, "chosen": None, "error": None}
    record["ladder"] = [planned.as_dict() for planned in steps]
    try:
        return record | {"chosen": choose_plan(steps, spec.budget_bytes).as_dict()}
    except BudgetTooSmall as error:
        return record | {"error": str(error)}


def plans_for(
    spec: JobSpec, train: Sequence[Encoded], heldout: Sequence[Encoded], tokenizer: PreTrainedTokenizerFast
) -> list[EstimatedPlan]:
    """The plans for the job, given what it learns and is judged by: the fastest within its budget, then ever smaller.

    Where the job names its plan, that one comes first, whether it fits or not. Raises BudgetTooSmall.
    """
    shape, load, size, costs = _asked(spec, train, heldout, tokenizer)
    steps = ladder(shape, load, size, costs)
    if spec.plan:
        named = from_json(MemoryPlan, spec.plan)
        at_once = replace(named, micro_batch=min(named.micro_batch, size))
        first = estimate_plan(at_once, steps[0], shape, load, costs)
    else:
        first = choose_plan(steps, spec.budget_bytes)
    smaller = [step for step in steps if step.estimate.peak_bytes < first.estimate.peak_bytes]
    fitting = [step for step in smaller if spec.budget_bytes is None or needed_bytes(step) <= spec.budget_bytes]
    return [first, *(fitting or smaller)]


def _asked(
    spec: JobSpec, train: Sequence[Encoded], heldout: Sequence[Encoded], tokenizer: PreTrainedTokenizerFast
) -> tuple[ModelShape, Workload, int, Costs]:
    """What the planner is asked: model, work, examples a step, and costs; in a process like this one."""
    config = spec.training
    program_bytes = rss_bytes()
    costs = _costs(spec)
    shape = _shape(spec)
    passages = general_text(tokenizer, REHEARSAL_TEXT) if config.rehearsal_batch and config.rehearsal_weight else []
    steps = _steps(train, config, config.batch_size, config.accumulation)
    rehearsals = _steps(passages, config, config.rehearsal_batch, 1)
    newest = train[-NEWEST:]
    learning = {row for rows in (heldout, newest, *steps, *rehearsals) for row in rows}
    words = {word for row in learning for word in (*row.prompt, *row.reply)}
    load = Workload(
        steps=_lengths(steps),
        number_bytes=compute_dtype(spec.dtype).itemsize,
        program_bytes=program_bytes + costs.started_bytes,
        rehearsals=_lengths(rehearsals),
        evaluations=_lengths([by_length(rows) for rows in (newest, heldout, general_text(tokenizer))]),
        unread_bytes=shape.unread_bytes(words | {0, pad_id(tokenizer)}),
    )
    return shape, load, config.batch_size, costs


def _steps(rows: Sequence[Encoded], config: TrainConfig, size: int, accumulation: int) -> list[list[Encoded]]:
    """What each step works on; nothing where there is nothing to work on."""
    if not rows:
        return []
    return [step_rows(rows, size, accumulation, step, config.seed) for step in range(config.steps)]


def _lengths(batches: Sequence[Sequence[Encoded]]) -> Batches:
    return tuple(tuple((len(row.prompt), len(row.reply)) for row in rows) for rows in batches)


def _shape(spec: JobSpec) -> ModelShape:
    lars = spec.lars
    return shape_of(Path(spec.model_path), lars, *precision(spec.dtype))


def _costs(spec: JobSpec) -> Costs:
    """What a step's pieces take on this device, measured once; the built-in figures where none are kept."""
    if spec.costs_file is None:
        return DEFAULT_COSTS
    lars = spec.lars
    where = f"{platform.node()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {allocator_name()}"
    name = f"{where}: {spec.model_sha256[:12]} {spec.dtype} {lars.pooling}"
    return Calibration(Path(spec.costs_file)).costs(
        name, lambda: costs_of(Path(spec.model_path), lars, *precision(spec.dtype))
    )


def _rows(path: Path, spec: JobSpec, tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    max_seq_len = spec.training.max_seq_len
    rows = []
    for example in read_examples(path):
        try:
            rows.append(encode(tokenizer, _cleaned(example), max_seq_len))
        except (ExampleTooLong, ModelUnsupported, TemplateError) as error:
            sys.stderr.write(f"left out: {example.source_id}: {error}\n")
    return rows


def _cleaned(example: Example) -> Example:
    """The example without surrounding white space in its reply: a reply never ends in a line break when served."""
    return Example(example.messages, example.response.strip(), example.weight, example.source_id)
