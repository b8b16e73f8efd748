"""A job's examples as tokens, and the plan that their lengths and the job's budget ask for; no weight is read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import BudgetTooSmall, ExampleTooLong, ModelUnsupported
from lars_agent.example import Example
from lars_agent.lars.config import LarsConfig
from lars_agent.memory.estimate import Workload
from lars_agent.memory.measure import rss_bytes
from lars_agent.memory.planner import Planned, choose_plan, ladder
from lars_agent.memory.shape import ModelShape, shape_of
from lars_agent.models.open import compute_dtype, open_tokenizer
from lars_agent.training.batches import Encoded, encode
from lars_agent.training.job import HELDOUT_FILE, TRAIN_FILE, JobSpec, read_examples
from lars_agent.training.loop import TrainConfig


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
    train, heldout = encoded(folder, spec, open_tokenizer(Path(spec.model_path)))
    shape, load, size = _shape(spec), _workload(spec, [*train, *heldout]), _batch_size(spec)
    steps = [planned.as_dict() for planned in ladder(shape, load, size)]
    record: dict[str, Any] = {"budget_bytes": spec.budget_bytes, "chosen": None, "error": None, "ladder": steps}
    try:
        return record | {"chosen": choose_plan(shape, load, spec.budget_bytes, size).as_dict()}
    except BudgetTooSmall as error:
        return record | {"error": str(error)}


def plan_for(spec: JobSpec, rows: Sequence[Encoded]) -> Planned:
    """The fastest plan for the job within its budget, given its examples as tokens. Raises BudgetTooSmall."""
    return choose_plan(_shape(spec), _workload(spec, rows), spec.budget_bytes, _batch_size(spec))


def _workload(spec: JobSpec, rows: Sequence[Encoded]) -> Workload:
    """What the longest of the job's examples ask for, in a process like this one."""
    return Workload(
        prompt=max((len(row.prompt) for row in rows), default=1),
        reply=max((len(row.reply) for row in rows), default=1),
        number_bytes=torch.finfo(compute_dtype(spec.dtype)).bits // 8,
        program_bytes=rss_bytes(),
    )


def _shape(spec: JobSpec) -> ModelShape:
    return shape_of(Path(spec.model_path), LarsConfig.from_dict(spec.lars))


def _batch_size(spec: JobSpec) -> int:
    return TrainConfig.from_dict(spec.training).batch_size


def _rows(path: Path, spec: JobSpec, tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    max_seq_len = TrainConfig.from_dict(spec.training).max_seq_len
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
