"""What the planner bench claims: how far predictions are off, and whether any budget was passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.record import row

REFUSED, VIOLATED = "BudgetTooSmall", "BudgetExceeded"


def planner_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Empty where no job was measured. Errors are those of predicted over measured peak."""
    measured = [record for record in records if record["status"] == "succeeded"]
    if not measured:
        return []
    ratios = [record["predicted_peak_bytes"] / record["peak_bytes"] for record in measured]
    note = f"{len(measured)} random jobs of the real worker (lars-agent bench planner)"
    off, under = max(abs(ratio - 1) for ratio in ratios), max(0.0, *(1 - ratio for ratio in ratios))
    violations = sum(map(is_violation, records))
    return [
        row("planner_max_abs_error", [off], "ratio", "lower", goal=0.10, note=note),
        row("planner_max_underestimate", [under], "ratio", "lower", goal=0.05, note=note),
        row("budget_violations", [violations], "jobs", "lower", goal=0, note="peak above the budget, or stopped by it"),
        row("planner_jobs_measured", [len(measured)], "jobs", "higher"),
        row(
            "planner_jobs_refused", [sum(map(is_refusal, records))], "jobs", "lower", note="before anything was loaded"
        ),
        row("planner_jobs_failed", [sum(map(is_failure, records))], "jobs", "lower", note="for any other reason"),
    ]


def is_violation(record: Mapping[str, Any]) -> bool:
    """Whether the job passed its budget: it ended so, or the worker stopped itself when it did."""
    passed = record["status"] == "succeeded" and record["peak_bytes"] > record["budget_bytes"]
    return passed or record["error_type"] == VIOLATED


def is_refusal(record: Mapping[str, Any]) -> bool:
    """Whether the job was refused for its budget with no weight read."""
    return record["error_type"] == REFUSED and not record["begun"]


def is_failure(record: Mapping[str, Any]) -> bool:
    return record["status"] != "succeeded" and not is_refusal(record) and not is_violation(record)
