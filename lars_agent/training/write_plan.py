"""Write plan.json of a job that another machine will train: `python -m lars_agent.training.write_plan JOB_DIR`.

The plan is the one that a worker of this device would make, so that the other machine takes the same steps in the same
order, and either can go on with what the other has begun. A plan that is there stays. Exit status: 0, or 1 with the
error as JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

import lars_agent.training.worker  # noqa: F401 (its size is part of the estimate)
from lars_agent.errors import LarsError, serialize_error
from lars_agent.models.open import open_tokenizer
from lars_agent.training.job_directory import JobSpec
from lars_agent.training.job_plan import JobPlan, plans_for
from lars_agent.training.job_rows import encode_job


def write_plan(folder: Path) -> JobPlan:
    """Return the plan of the job in `folder`, made now if there is none. Raises as the worker does."""
    spec = JobSpec.read(folder)
    torch.set_num_threads(spec.threads or os.cpu_count() or 1)  # the costs of a step are known by it
    tokenizer = open_tokenizer(Path(spec.model_path))
    return JobPlan.read_or_make(folder, lambda: plans_for(spec, encode_job(folder, spec, tokenizer), tokenizer))


def main(arguments: list[str]) -> int:
    """Write the plan of the folder in `arguments`, and return the exit status."""
    try:
        write_plan(Path(arguments[0]))
    except LarsError as error:
        sys.stdout.write(json.dumps(serialize_error(error)) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
