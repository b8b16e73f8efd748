"""What a job would do, without doing it: which plan it would train by, and how much memory that takes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lars_agent.errors import WorkerFailed, process_error
from lars_agent.files import make_folder
from service.cycle.context import CycleContext
from service.cycle.job_directory import rehearse
from service.worker.process import worker_environment

PLAN_FLAG = "--plan"
TIMEOUT_S = 120.0


def dry_run(profile: str, parts: CycleContext, worker_command: Sequence[str]) -> dict[str, Any]:
    """What the worker would plan for the profile's feedback as it is: see `lars_agent.training.worker.plan_job`.

    Nothing is loaded and nothing is kept. Raises NothingToLearn, ModelLoading, WorkerFailed, and what the worker met.
    """
    make_folder(parts.settings.jobs_dir).chmod(0o700)
    with tempfile.TemporaryDirectory(prefix=".dry-run-", dir=parts.settings.jobs_dir) as name:
        folder = Path(name)
        rehearse(profile, folder, parts)
        command = [*worker_command, PLAN_FLAG, str(folder)]
        done = _run(command, worker_environment(parts.settings.training.threads))
    if done.returncode:
        raise process_error(done, "the training worker could not plan", WorkerFailed)
    return dict(json.loads(done.stdout))


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        words = f"the training worker had no plan after {TIMEOUT_S:.0f} s; ask again when the device is idle"
        raise WorkerFailed(words) from error
