"""The job directory: the interface between the daemon and the training worker.

job.json         the job's specification; constant once the daemon has written it
train.jsonl      the training examples
heldout.jsonl    the held-out examples
plan.json        memory plans, chosen by the worker before it loads the model
progress.jsonl   one line per step, appended by the worker
alive            touched by the worker about every second while it makes progress
checkpoint-N/    the state from which a killed worker continues
candidate/       the adapter, written at the end
result.json      the measurements; its presence means that the worker is done

The worker's exit status is 0 if there is a result, EXIT_STOPPED or EXIT_DISK_FULL if it may be run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from lars_agent.errors import JobInvalid
from lars_agent.example import Example
from lars_agent.files import read_plain, write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.records import from_json, parse_json, record, to_json
from lars_agent.training.config import TrainConfig
from lars_agent.training.gate import Scores

SCHEMA = 1
SPEC_FILE, PLAN_FILE, RESULT_FILE, PROGRESS_FILE = "job.json", "plan.json", "result.json", "progress.jsonl"
ALIVE_FILE = "alive"
TRAIN_FILE, HELDOUT_FILE, CANDIDATE = "train.jsonl", "heldout.jsonl", "candidate"
EXIT_STOPPED = 75  # after SIGTERM; the same command continues from the checkpoint
EXIT_DISK_FULL = 74  # no room for the result


@record("job", JobInvalid)
class JobSpec:
    """A job's specification; with the two example files it is the worker's whole input.

    Attributes:
        model_path: folder of the base model; `model_sha256` is the digest it must have.
        dtype: `auto`, `float32`, `bfloat16`, `int8` or `int4`, see `lars_agent.models.arithmetic.compute_dtype`.
        plan: the fields of a `MemoryPlan` to use instead of the one chosen for the budget.
        parent: folder of the incumbent adapter, None when the base model is in use.
        start: folder of the adapter that training goes on from, None for a new one.
        budget_bytes: peak resident memory the worker may reach; None for no limit.
        threads: torch's thread count; 0 for all cores.
        costs_file: cache of this device's measured costs; None for the built-in ones.
    """

    job_id: str
    profile: str
    model_path: str
    model_sha256: str
    dtype: str = "auto"
    base_model: str = ""
    base_model_revision: str | None = None
    lars: LarsConfig = LarsConfig()
    training: TrainConfig = TrainConfig()
    plan: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    start: str | None = None
    budget_bytes: int | None = None
    threads: int = 0
    seed: int = 0
    costs_file: str | None = None
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Write job.json into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SPEC_FILE, to_json(self))

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Return the spec in `folder`. Raises JobInvalid."""
        path = folder / SPEC_FILE
        values = read_json(path)
        if isinstance(values, dict) and isinstance(schema := values.get("schema"), int) and schema > SCHEMA:
            raise JobInvalid(f"{path} has schema {schema}; this lars-agent knows up to {SCHEMA}")
        return from_json(cls, values, source=path)


@record("result", JobInvalid)
class JobResult:
    """The worker's measurements, from which the gate decides.

    Attributes:
        error, error_type, error_fields: of a worker that failed, see `lars_agent.errors.serialize_error`.
        candidate, incumbent, base: scores of the new adapter, of the one in use, and of the base model alone.
        best_step: the step kept.
        losses: reply loss in nats per token, `train` of the last step and `heldout` of the step kept.
        peak_bytes: the worker's peak resident memory; `predicted_peak_bytes` is the first plan's prediction.
        plan: the fields of the last `MemoryPlan`; `stepped_down` lists those left for a smaller one.
        seconds, cpu_seconds: wall-clock and processor time, all resumed runs together.
        learned: source ids of the examples trained on, without those skipped.
    """

    status: Literal["succeeded", "failed"]
    error: str | None = None
    error_type: str | None = None
    error_fields: Mapping[str, Any] = field(default_factory=dict)
    best_step: int = 0
    steps: int = 0
    candidate: Scores | None = None
    incumbent: Scores | None = None
    base: Scores | None = None
    peak_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    stepped_down: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)
    learned: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write result.json into `folder`."""
        write_atomically(folder / RESULT_FILE, to_json(self))


def read_result(folder: Path) -> JobResult | None:
    """Return the worker's result, or None if it has not finished. Raises JobInvalid."""
    path = folder / RESULT_FILE
    return from_json(JobResult, read_json(path), source=path) if path.exists() else None


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """Return the progress lines so far, without damaged ones and the last of a worker that writes or was killed."""
    try:
        text = read_plain(folder / PROGRESS_FILE).decode(errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.split("\n")[:-1]:
        with suppress(ValueError):
            found.append(parse_json(line))
    return [line for line in found if isinstance(line, dict)]


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write the examples to `path`, one JSON line each."""
    write_atomically(path, "".join(json.dumps(example.as_dict()) + "\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Return the examples in `path`. Raises JobInvalid, naming the line and the field."""
    lines = _read_text(path).splitlines()
    return [Example.from_json(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`. Raises JobInvalid."""
    try:
        return parse_json(_read_text(path))
    except ValueError as error:
        raise JobInvalid(f"{path} is not valid JSON: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return read_plain(path).decode()
    except (OSError, ValueError) as error:
        raise JobInvalid(f"{path} cannot be read: {error}") from error
