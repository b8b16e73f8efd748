"""plan.json: the plans of a job, which one it trains by, and when it had to step down to it.

A worker that is started again goes on with the plan that it had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lars_agent.files import write_atomically
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.planning.planner import EstimatedPlan
from lars_agent.records import from_json
from lars_agent.training.job_directory import PLAN_FILE

__all__ = ["PlanRecord", "promised_bytes"]

LEAST_GAIN = 0.03  # of the prediction that a step down must save: less would only come again


class PlanRecord:
    """The plans of the job in one folder, in the order in which they are tried; made by `of`."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self._path, self._record = path, record

    @classmethod
    def of(cls, folder: Path, make: Callable[[], Sequence[EstimatedPlan]]) -> PlanRecord:
        """What plan.json in `folder` says; where there is none, `make` is asked and the answer kept."""
        path = folder / PLAN_FILE
        if not path.exists():
            first, *smaller = [planned.as_dict() for planned in make()]
            record = first | {"smaller": smaller, "stepped_down": []}
            write_atomically(path, json.dumps(record, indent=2) + "\n")
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    @property
    def plan(self) -> MemoryPlan:
        """The plan to train by."""
        return from_json(MemoryPlan, self._record["plan"])

    @property
    def predicted_peak_bytes(self) -> int:
        """What it was said to take at its peak."""
        return int(self._record["predicted_peak_bytes"])

    @property
    def promised_bytes(self) -> int:
        """What the job was said to take at its peak when it began, before any step down."""
        first = (self.stepped_down or [self._record])[0]
        return int(first["predicted_peak_bytes"])

    @property
    def stepped_down(self) -> list[dict[str, Any]]:
        """Each time that a smaller plan was taken: `step`, `held_bytes`, and the `plan` that was left."""
        return list(self._record["stepped_down"])

    def step_down(self, held_bytes: int, at_step: int) -> bool:
        """Whether there was a smaller plan; it is the one to train by now, and plan.json says so."""
        enough = (1 - LEAST_GAIN) * self.predicted_peak_bytes
        smaller = [planned for planned in self._record["smaller"] if planned["predicted_peak_bytes"] <= enough]
        if not smaller:
            return False
        left = {name: self._record[name] for name in ("plan", "predicted_peak_bytes")}
        left |= {"step": at_step, "held_bytes": held_bytes}
        stepped_down = [*self._record["stepped_down"], left]
        self._record = smaller[0] | {"smaller": smaller[1:], "stepped_down": stepped_down}
        write_atomically(self._path, json.dumps(self._record, indent=2) + "\n")
        return True


def promised_bytes(folder: Path) -> int | None:
    """What plan.json in `folder` predicts; None where there is none."""
    path = folder / PLAN_FILE
    return PlanRecord(path, json.loads(path.read_text(encoding="utf-8"))).promised_bytes if path.is_file() else None
