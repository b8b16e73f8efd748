"""Random jobs for the planner to predict, and the rows made of them: errors of prediction, and exceeded budgets."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.record import Row, claimed, tables
from bench.suite import Record, Store
from lars_agent.records import from_json

MIB = 2**20
REPLY = (8, 128)
BATCH = (1, 6)
REFUSED, VIOLATED = "BudgetTooSmall", "BudgetExceeded"
RANGES: Mapping[str, Mapping[str, Any]] = tables("subjects.toml")["planner"]


@dataclass(frozen=True)
class PlannedJob:
    """One job: number `number` of the draw that `seed` begins, with `batch` examples a step."""

    seed: int
    number: int
    model: str
    dtype: str
    context: int
    reply: int
    batch: int
    budget_bytes: int


def draw_jobs(count: int, seed: int, models: Sequence[str], dtypes: Sequence[str]) -> Iterator[PlannedJob]:
    """The first `count` jobs of the draw; the same for the same arguments, and a longer draw begins with them."""
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        model = rng.choices(models, [RANGES[name]["weight"] for name in models])[0]
        yield PlannedJob(
            seed=seed,
            number=number,
            model=model,
            dtype=rng.choice(dtypes),
            context=_log_uniform(rng, RANGES[model]["context"]),
            reply=_log_uniform(rng, REPLY),
            batch=rng.randint(*BATCH),
            budget_bytes=_log_uniform(rng, RANGES[model]["budget_mib"]) * MIB,
        )


def planner_rows(records: Sequence[Record]) -> list[Row]:
    """Empty where no job was measured. Errors are those of predicted over measured peak."""
    measured = [record for record in records if record["status"] == "succeeded"]
    if not measured:
        return []
    ratios = [record["predicted_peak_bytes"] / record["peak_bytes"] for record in measured]
    figures = {
        "planner_max_abs_error": max(abs(ratio - 1) for ratio in ratios),
        "planner_max_underestimate": max(0.0, *(1 - ratio for ratio in ratios)),
        "budget_violations": sum(map(is_violation, records)),
        "planner_jobs_measured": len(measured),
        "planner_jobs_refused": sum(map(is_refusal, records)),
        "planner_jobs_failed": sum(map(is_failure, records)),
    }
    return [claimed(name, [value], jobs=len(measured)) for name, value in figures.items()]


def is_violation(record: Record) -> bool:
    """Tell whether the job exceeded its budget: it ended so, or the worker stopped itself when it did."""
    exceeded = record["status"] == "succeeded" and record["peak_bytes"] > record["budget_bytes"]
    return exceeded or record["error_type"] == VIOLATED


def is_refusal(record: Record) -> bool:
    """Tell whether the job was refused for its budget with no weight read."""
    return record["error_type"] == REFUSED and not record["begun"]


def is_failure(record: Record) -> bool:
    """Tell whether the job failed for another reason."""
    return record["status"] != "succeeded" and not is_refusal(record) and not is_violation(record)


def _log_uniform(rng: random.Random, ends: Sequence[int]) -> int:
    return round(math.exp(rng.uniform(*map(math.log, ends))))


JOBS = Store(
    "planner-cells.jsonl",
    partial(from_json, PlannedJob),
    rows=lambda newest: planner_rows(list(newest.values())),
    shown=(*PlannedJob.__match_args__, "error_type", "error", "predicted_peak_bytes", "peak_bytes"),
    is_failure=is_failure,
)
