"""Plan a job without running it: the plan that it would train by, and the memory that this takes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lars_agent.errors import WorkerFailed, process_error
from lars_agent.files import make_folder
from service.cycle.context import CycleContext
from service.cycle.job_directory import write_dry_run
from service.worker.process import worker_environment

PLAN_FLAG = "--plan"
TIMEOUT_S = 120.0


def dry_run(profile: str, context: CycleContext, worker_command: Sequence[str]) -> dict[str, Any]:
    """Return the worker's plan for the profile's present feedback, see `lars_agent.training.job_plan.plan_job`.

    Loads and keeps nothing. Raises NothingToLearn, ModelLoading, WorkerFailed, and the worker's own error.
    """
    make_folder(context.settings.jobs_dir).chmod(0o700)
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=context.settings.jobs_dir) as name:
        folder = Path(name)
        write_dry_run(profile, folder, context)
        command = [*worker_command, PLAN_FLAG, str(folder)]
        environment = worker_environment(context.settings.training.worker_threads)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            message = f"the training worker had no plan after {TIMEOUT_S:.0f} s; ask again when the device is idle"
            raise WorkerFailed(message) from error
    if done.returncode:
        raise process_error(done, "the training worker could not plan", WorkerFailed)
    return dict(json.loads(done.stdout))
