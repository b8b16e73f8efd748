"""The job directory: the seam between the daemon and the training worker.

job.json         what to do: frozen when the daemon writes it
train.jsonl      the examples to learn
heldout.jsonl    the examples to judge by
plan.json        how the budget is kept: chosen by the worker before it loads the model, and then kept
progress.jsonl   one line per step, appended by the worker
alive            touched by the worker, every second or so, as long as it gets on
checkpoint-N/    where a killed worker goes on from
candidate/       the adapter, written at the end
result.json      what was measured; its presence means that the worker is done

The worker's exit status is 0 once there is a result, EXIT_STOPPED or EXIT_DISK_FULL where it may be run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from lars_agent.errors import JobInvalid
from lars_agent.example import Example
from lars_agent.files import write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.records import from_json, record, to_json
from lars_agent.training.config import TrainConfig
from lars_agent.training.gate import Scores

SCHEMA = 1
SPEC_FILE, PLAN_FILE, RESULT_FILE, PROGRESS_FILE = "job.json", "plan.json", "result.json", "progress.jsonl"
ALIVE_FILE = "alive"
TRAIN_FILE, HELDOUT_FILE, CANDIDATE = "train.jsonl", "heldout.jsonl", "candidate"
EXIT_STOPPED = 75  # after SIGTERM: there is a checkpoint, and the same command goes on from there
EXIT_DISK_FULL = 74  # there was no room for the result


@record("job", JobInvalid)
class JobSpec:
    """Everything a worker needs to know; with the two example files it is the whole input of a job.

    Attributes:
        model_path: folder of the base model; `model_sha256` is the digest it must have.
        dtype: `auto`, `float32`, `bfloat16`, `int8` or `int4`, see `lars_agent.models.open.compute_dtype`.
        plan: the fields of `MemoryPlan` where it is not to be chosen for the budget.
        parent: folder of the incumbent adapter, None when the base model is in use.
        budget_bytes: peak resident memory the worker may reach; None for no limit.
        threads: torch's thread count; 0 for all cores.
        costs_file: where this device's measured costs are kept; None to plan by those of another.
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
        values = _read_object(folder / SPEC_FILE)
        if isinstance(schema := values.get("schema"), int) and schema > SCHEMA:
            raise JobInvalid(f"{folder / SPEC_FILE} has schema {schema}; this lars-agent knows up to {SCHEMA}")
        return from_json(cls, values, source=folder / SPEC_FILE)


@record("result", JobInvalid)
class JobResult:
    """What the worker measured. It judges nothing: the gate decides from these numbers.

    Attributes:
        error, error_type, error_fields: of a worker that failed, as `lars_agent.errors.serialize_error` gives them.
        candidate, incumbent, base: losses of the new adapter, of the one in use, and of the model without any.
        best_step: the step kept.
        losses: reply loss in nats per token, `train` of the last step and `heldout` of the step kept.
        peak_bytes: the worker's peak resident memory; `predicted_peak_bytes` is what the plan promised.
        plan: the fields of the `MemoryPlan` that it ended with; `stepped_down` lists those left for a smaller one.
        seconds, cpu_seconds: time spent, and what the cores worked in it, all resumed runs together.
        learned: the source ids of the examples that were trained on: those that were neither too long nor refused.
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
    """Return the worker's result, or None while it has not finished. Raises JobInvalid."""
    path = folder / RESULT_FILE
    return from_json(JobResult, _read_object(path), source=path) if path.exists() else None


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """The progress lines so far; a torn last line (the worker is writing, or was killed) is left out."""
    try:
        text = (folder / PROGRESS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line.endswith("}")]


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """`path` holds one JSON line per example."""
    write_atomically(path, "".join(json.dumps(example.as_dict()) + "\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """The examples in `path`. Raises JobInvalid naming the line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise JobInvalid(f"{path} cannot be read: {error}") from error
    examples = []
    for number, line in enumerate(lines, start=1):
        try:
            examples.append(Example.from_dict(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise JobInvalid(f"{path}, line {number}: {error!r}") from error
    return examples


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises JobInvalid."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise JobInvalid(f"{path} holds {type(record).__name__}, not an object")
    return record
