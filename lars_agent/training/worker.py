"""The training worker: `python -m lars_agent.training.worker JOB_DIR`.

With `--plan` it prints the job's plans as JSON and does nothing else; with `--write-plan` it writes the one that it
would train by into the job directory, for a worker on another machine, which then takes the same steps.

A process of its own, so that its memory limit, priority and crashes affect nothing else. It plans its memory before
loading the model, trains from the last intact checkpoint, scores candidate, incumbent and base model, and writes
`candidate/` and `result.json`. It does not decide about the candidate and opens no database.

Exit status: 0 with a result.json (also of a failure), 75 after SIGTERM, 74 if the disk is too full for the result,
anything else after a crash. The same command continues from the last checkpoint. SIGTERM takes effect before the next
decoder layer: the current step is discarded and the last one checkpointed; a resumed run ends in the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import DiskFull, JobInvalid, LarsError, Preempted, TrainingError, serialize_error
from lars_agent.files import PRIVATE_UMASK, write_atomically
from lars_agent.lars import LarsAdapter, attach, load_adapter, save_adapter
from lars_agent.memory.allocator import give_back
from lars_agent.memory.guard import Guard
from lars_agent.memory.measure import peak_rss_bytes, rss_bytes
from lars_agent.models.open import OpenedModel, open_model, open_tokenizer
from lars_agent.models.sources import loadable_reference
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.processor import core_count
from lars_agent.store.adapters import MANIFEST
from lars_agent.store.manifest import read_manifest
from lars_agent.training.batches import pad_id
from lars_agent.training.checkpoint import resume, save_checkpoint
from lars_agent.training.final_scores import FinalScores, kind_of
from lars_agent.training.job_directory import (
    ALIVE_FILE,
    CANDIDATE,
    EXIT_DISK_FULL,
    EXIT_STOPPED,
    PROGRESS_FILE,
    TRAIN_FILE,
    JobResult,
    JobSpec,
    read_examples,
    read_progress,
)
from lars_agent.training.job_plan import JobPlan, plan_job, plans_for, precision_of, promised_bytes, write_plan
from lars_agent.training.job_rows import encode_job
from lars_agent.training.trainer import Progress, Trainer

ALIVE_S = 1.0
PLAN, WRITE_PLAN = "--plan", "--write-plan"


class Worker:
    """One job, from its directory to its result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = JobSpec.read(folder)
        self.config = self.spec.training
        self.guard = Guard(self.spec.budget_bytes, self._on_check)
        self.stopping = False
        self.started = self.touched = time.monotonic()
        self.cpu_started = 0.0

    def run(self) -> bool:
        """Train, write candidate and result, and return True; return False if stopped by SIGTERM before that."""
        signal.signal(signal.SIGTERM, self._stop)
        torch.set_num_threads(self.spec.threads or core_count())
        tokenizer = open_tokenizer(Path(self.spec.model_path))
        rows = encode_job(self.folder, self.spec, tokenizer)
        self.plans = JobPlan.read_or_make(self.folder, lambda: plans_for(self.spec, rows, tokenizer))
        opened = self._open_model(tokenizer)
        self.trainer = trainer = Trainer(
            attach(opened.model),
            self._adapter(opened),
            rows,
            pad_id(opened.tokenizer),
            self.plans.plan,
            self.folder,
            self._step_down,
        )
        resume(trainer, self.folder)
        self._begin_progress(trainer.progress.step)
        with self.guard.check_layers(opened.model), contextlib.suppress(Preempted):
            if trainer.run(
                on_step=self._on_step,
                on_checkpoint=lambda trainer: save_checkpoint(trainer, self.folder),
                check=self.guard.check,
            ):
                self._finish(opened)
                return True
        return False

    def times(self) -> tuple[float, float]:
        """Return the wall-clock and the processor seconds so far, all runs of this job together."""
        return round(time.monotonic() - self.started, 3), round(time.process_time() - self.cpu_started, 3)

    def _stop(self, signum: int, frame: object) -> None:
        self.stopping = True

    def _on_check(self) -> None:
        """Before each layer: raise Preempted after SIGTERM, and touch the `alive` file every `ALIVE_S`."""
        if self.stopping:
            raise Preempted("the worker received SIGTERM")
        now = time.monotonic()
        if now - self.touched > ALIVE_S:
            self.touched = now
            (self.folder / ALIVE_FILE).touch()

    def _open_model(self, tokenizer: PreTrainedTokenizerFast) -> OpenedModel:
        opened = open_model(Path(self.spec.model_path), *precision_of(self.spec), tokenizer)
        if opened.sha256 != self.spec.model_sha256:
            raise JobInvalid(
                f"the model in {self.spec.model_path} has sha256 {opened.sha256}, the job was made for "
                f"{self.spec.model_sha256}; start a new job"
            )
        return opened

    def _adapter(self, opened: OpenedModel) -> LarsAdapter:
        """Return a copy of the adapter that training goes on from, or a new one."""
        if self.spec.start is None:
            return LarsAdapter.for_model(opened.model, self.spec.lars, seed=self.config.seed)
        return load_adapter(opened.model, Path(self.spec.start)).requires_grad_()

    def _step_down(self, held_bytes: int) -> MemoryPlan:
        """Return a smaller plan, or the same one with the whole budget as its limit. Raises BudgetExceeded."""
        self.guard.reset()
        step = self.trainer.progress.step
        smaller = self.plans.step_down(held_bytes, at_step=step)
        if smaller is None:
            self.guard.use_full_budget(held_bytes)
        else:
            smaller.write(self.folder)
            self.plans = smaller
            sys.stderr.write(f"{held_bytes:,} bytes held: continuing from step {step} with {smaller.plan}\n")
        return self.plans.plan

    def _begin_progress(self, step: int) -> None:
        """Truncate progress.jsonl after the resumed step, and count the time used until then."""
        steps = [line for line in read_progress(self.folder) if line.get("phase") == "training"]
        lines = [line for line in steps if isinstance(line.get("step"), int) and line["step"] <= step]
        if lines:
            self.started -= lines[-1]["elapsed_s"]
            self.cpu_started -= lines[-1]["cpu_s"]
        write_atomically(self.folder / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in lines))

    def _append_progress(self, phase: str, **values: Any) -> None:
        progress, (elapsed_s, cpu_s) = self.trainer.progress, self.times()
        line = {"time": time.time(), "phase": phase, "steps": self.trainer.last_step, "step": progress.step}
        line |= {"loss": progress.loss, **values, "rss_bytes": rss_bytes(), "elapsed_s": elapsed_s, "cpu_s": cpu_s}
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _on_step(self, progress: Progress) -> None:
        give_back()
        values: dict[str, Any] = {"lr": self.trainer.rate(progress.step - 1)}
        if progress.heldout_loss is not None:
            values |= {"heldout_loss": progress.heldout_loss, "best_step": progress.best_step}
        self._append_progress("training", **values)

    def _finish(self, opened: OpenedModel) -> None:
        """Score candidate, incumbent and base model; write the candidate and the result."""
        trainer, progress = self.trainer, self.trainer.progress
        trainer.optimizer.release()
        trainer.prompts.clear()
        self._append_progress("judging")
        examples = read_examples(self.folder / TRAIN_FILE)
        kinds = {example.source_id: kind_of(example) for example in examples}
        measured = FinalScores(trainer, opened.tokenizer, kinds, self._learned_before())
        parent = None if self.spec.parent is None else load_adapter(opened.model, Path(self.spec.parent))
        candidate, incumbent, base = measured.of(trainer.adapter, parent)
        base_model, revision = loadable_reference(self.spec.base_model, self.spec.base_model_revision)
        save_adapter(trainer.adapter, self.folder / CANDIDATE, base_model=base_model, revision=revision)
        trainer.best_file.unlink()
        self._append_progress("done")
        seconds, cpu_seconds = self.times()
        JobResult(
            status="succeeded",
            best_step=progress.best_step or 0,
            steps=progress.step,
            candidate=candidate,
            incumbent=incumbent,
            base=base,
            peak_bytes=self.guard.peak_bytes,
            predicted_peak_bytes=promised_bytes(self.folder),
            plan=asdict(self.plans.plan),
            stepped_down=self.plans.stepped_down,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            losses={"train": progress.loss, "heldout": progress.best_loss},
            learned=tuple(row.source_id for row in trainer.rows.train),
        ).write(self.folder)

    def _learned_before(self) -> frozenset[str]:
        """Return the ids of the examples that the incumbent learned; nothing where its manifest is missing."""
        manifest = Path(self.spec.parent or self.folder, MANIFEST)
        return frozenset(read_manifest(manifest.read_bytes()).example_ids if manifest.is_file() else ())


def main(arguments: list[str]) -> int:
    """Run the worker on the job directory in `arguments`, and return the exit status."""
    *flags, name = arguments or [""]
    if not name or name.startswith("--") or flags not in ([], [PLAN], [WRITE_PLAN]):
        sys.stderr.write(f"usage: python -m lars_agent.training.worker [{PLAN} | {WRITE_PLAN}] JOB_DIR\n")
        return 2
    os.umask(PRIVATE_UMASK)
    folder = Path(name)
    if flags:
        return _print_plan(folder, plan_job if flags == [PLAN] else write_plan)
    try:
        return 0 if Worker(folder).run() else EXIT_STOPPED
    except (LarsError, OSError) as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return _record_failure(folder, error) if folder.is_dir() else 2


def _print_plan(folder: Path, make: Callable[[Path], dict[str, Any]]) -> int:
    """Print the job's plans, or the serialized error of planning, and return the exit status."""
    try:
        plan, status = make(folder), 0
    except LarsError as error:
        plan, status = dict(serialize_error(error)), 1
    sys.stdout.write(json.dumps(plan) + "\n")
    return status


def _record_failure(folder: Path, error: Exception) -> int:
    """Write the result of a failed job, and return the exit status."""
    record = serialize_error(error if isinstance(error, LarsError) else TrainingError(str(error)))
    result = JobResult(
        status="failed",
        error=record["message"],
        error_type=record["type"],
        error_fields=record.get("fields", {}),
        peak_bytes=peak_rss_bytes(),
        predicted_peak_bytes=promised_bytes(folder),
    )
    try:
        result.write(folder)
    except DiskFull:
        return EXIT_DISK_FULL
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
