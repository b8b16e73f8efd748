"""The training worker: `python -m lars_agent.training.worker JOB_DIR` (with `--plan`: what it would do, as JSON).

A process of its own, so that its memory limit, its priority and its death concern nobody else. It reads the job
directory, plans its memory before it loads anything, trains from the last sound checkpoint, measures candidate,
incumbent and base model, and leaves `candidate/` and `result.json`. It judges nothing and opens no database.

Exit status: 0 with a result.json (also when the result is a failure with words), 75 when SIGTERM made it stop, 74 where
the disk had no room for the result, anything else for a crash. The same command goes on from the last checkpoint.
SIGTERM is heard between any two decoder layers: the step that is being taken is given up, the last whole one is
checkpointed, and the run ends in the same bytes all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import DiskFull, JobInvalid, LarsError, Preempted, TrainingError, serialize_error
from lars_agent.files import write_atomically
from lars_agent.lars import LarsAdapter, attach, load_adapter, save_adapter
from lars_agent.memory.allocator import give_back
from lars_agent.memory.guard import Guard
from lars_agent.memory.measure import peak_rss_bytes, rss_bytes
from lars_agent.models.open import OpenedModel, open_model, open_tokenizer, precision
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training import checkpoint
from lars_agent.training.batches import Encoded, pad_id
from lars_agent.training.evaluate import NEWEST, REHEARSAL_TEXT, general_text, score
from lars_agent.training.gate import Scores
from lars_agent.training.job_directory import (
    ALIVE_FILE,
    CANDIDATE,
    EXIT_DISK_FULL,
    EXIT_STOPPED,
    PROGRESS_FILE,
    JobResult,
    JobSpec,
    read_progress,
)
from lars_agent.training.job_plan import encoded, plan_job, plans_for
from lars_agent.training.plan_file import PlanRecord, promised_bytes
from lars_agent.training.trainer import Progress, Trainer, learning_rate

ALIVE_S = 1.0


class Worker:
    """One job, from its directory to its result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = JobSpec.read(folder)
        self.config = self.spec.training
        self.guard = Guard(self.spec.budget_bytes, self._look_up)
        self.stopping = False
        self.started = self.seen_alive = time.monotonic()
        self.earlier_s = self.earlier_cpu_s = 0.0
        self.step = 0

    def run(self) -> bool:
        """True when result.json is there, False when the worker was asked to stop before that."""
        signal.signal(signal.SIGTERM, self._stop)
        torch.set_num_threads(self.spec.threads or os.cpu_count() or 1)
        tokenizer = open_tokenizer(Path(self.spec.model_path))
        train, heldout = encoded(self.folder, self.spec, tokenizer)
        self.plans = self._plans(train, heldout, tokenizer)
        opened = self._open_model(tokenizer)
        attachment = attach(opened.model)
        adapter = LarsAdapter.for_model(opened.model, self.spec.lars, seed=self.config.seed)
        rehearsal = general_text(opened.tokenizer, REHEARSAL_TEXT)
        trainer = Trainer(
            attachment,
            adapter,
            self.config,
            train,
            heldout,
            pad_id(opened.tokenizer),
            rehearsal,
            self.plans.plan,
            self.folder,
            self._smaller,
        )
        checkpoint.resume(trainer, self.folder)
        self.step = trainer.progress.step
        self._begin_progress(self.step)
        with self.guard.check_layers(opened.model):
            if not trainer.run(
                on_step=self._on_step,
                on_checkpoint=lambda trainer: self._checkpoint(trainer),
                between=self.guard.check,
            ):
                return False
            try:
                self._judge(opened, trainer)
            except Preempted:
                return False
        return True

    def elapsed_s(self) -> float:
        """Seconds of work so far, earlier runs of the same job included."""
        return self.earlier_s + time.monotonic() - self.started

    def cpu_s(self) -> float:
        """Seconds that cores have worked so far, earlier runs of the same job included."""
        return self.earlier_cpu_s + time.process_time()

    def _stop(self, signum: int, frame: object) -> None:
        self.stopping = True

    def _look_up(self) -> None:
        """Between two layers: the daemon sees that the worker gets on. Raises Preempted where it is to stop."""
        if self.stopping:
            raise Preempted("the worker was asked to stop")
        now = time.monotonic()
        if now - self.seen_alive > ALIVE_S:
            self.seen_alive = now
            (self.folder / ALIVE_FILE).touch()

    def _open_model(self, tokenizer: PreTrainedTokenizerFast) -> OpenedModel:
        opened = open_model(Path(self.spec.model_path), *precision(self.spec.dtype), tokenizer)
        if opened.sha256 != self.spec.model_sha256:
            raise JobInvalid(
                f"the model in {self.spec.model_path} has sha256 {opened.sha256}, the job was made for "
                f"{self.spec.model_sha256}; start a new job"
            )
        return opened

    def _plans(
        self, train: Sequence[Encoded], heldout: Sequence[Encoded], tokenizer: PreTrainedTokenizerFast
    ) -> PlanRecord:
        """The job's plans, made once and kept in plan.json; nothing has been loaded yet. Raises BudgetTooSmall."""
        return PlanRecord.of(self.folder, lambda: plans_for(self.spec, train, heldout, tokenizer))

    def _smaller(self, held_bytes: int) -> MemoryPlan:
        """The plan to go on with when so much is held; it is kept, and the log says so. Raises BudgetExceeded."""
        self.guard.reset()
        if self.plans.step_down(held_bytes, at_step=self.step):
            sys.stderr.write(f"{held_bytes:,} bytes held: going on from step {self.step} with {self.plans.plan}\n")
        else:
            self.guard.use_full_budget(held_bytes)
        return self.plans.plan

    def _begin_progress(self, step: int) -> None:
        """progress.jsonl ends with the step that is resumed, with no torn line."""
        lines = [line for line in read_progress(self.folder) if line["phase"] == "training" and line["step"] <= step]
        if lines:
            self.earlier_s, self.earlier_cpu_s = lines[-1]["elapsed_s"], lines[-1]["cpu_s"]
        write_atomically(self.folder / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in lines))

    def _append_progress(self, phase: str, **values: Any) -> None:
        line = {"time": time.time(), "phase": phase, "steps": self.config.steps, **values}
        line |= {"rss_bytes": rss_bytes(), "elapsed_s": round(self.elapsed_s(), 3), "cpu_s": round(self.cpu_s(), 3)}
        with (self.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _on_step(self, progress: Progress) -> None:
        give_back()
        self.step = progress.step
        values: dict[str, Any] = {"step": progress.step, "loss": progress.loss}
        values["lr"] = learning_rate(progress.step - 1, self.config)
        if progress.heldout_loss is not None:
            values |= {"heldout_loss": progress.heldout_loss, "best_step": progress.best_step}
        self._append_progress("training", **values)

    def _checkpoint(self, trainer: Trainer) -> None:
        checkpoint.save_checkpoint(trainer, self.folder)

    def _judge(self, opened: OpenedModel, trainer: Trainer) -> None:
        """Score the candidate, the incumbent and the base model; write the candidate and the result."""
        progress = trainer.progress
        trainer.release()
        self._append_progress("judging", step=progress.step, loss=progress.loss)
        general = general_text(opened.tokenizer)

        def scores(adapter: LarsAdapter | None) -> Scores:
            rows = (trainer.train_rows[-NEWEST:], trainer.heldout_rows, general)
            check = self.guard.check
            return trainer.within_budget(
                lambda: score(trainer.attachment, adapter, *rows, trainer.pad_id, check, trainer.plan)
            )

        candidate, base = scores(trainer.adapter), scores(None)
        incumbent = base if self.spec.parent is None else scores(load_adapter(opened.model, Path(self.spec.parent)))
        save_adapter(
            trainer.adapter,
            self.folder / CANDIDATE,
            base_model=self.spec.base_model,
            revision=self.spec.base_model_revision,
        )
        trainer.best_file.unlink()
        self._append_progress("done", step=progress.step, loss=progress.loss)
        JobResult(
            status="succeeded",
            best_step=progress.best_step or 0,
            steps=progress.step,
            candidate=candidate,
            incumbent=incumbent,
            base=base,
            peak_bytes=self.guard.peak_bytes,
            predicted_peak_bytes=self.plans.promised_bytes,
            plan=asdict(self.plans.plan),
            stepped_down=tuple(self.plans.stepped_down),
            seconds=round(self.elapsed_s(), 3),
            cpu_seconds=round(self.cpu_s(), 3),
            losses={"train": progress.loss, "heldout": progress.best_loss},
            learned=tuple(row.source_id for row in trainer.train_rows),
        ).write(self.folder)


def main(arguments: list[str]) -> int:
    """Runs the worker on the one job directory in `arguments`; returns the exit status."""
    planning = arguments[:1] == ["--plan"]
    if len(arguments) != 1 + planning:
        sys.stderr.write("usage: python -m lars_agent.training.worker [--plan] JOB_DIR\n")
        return 2
    folder = Path(arguments[-1])
    if planning:
        return _print_plan(folder)
    try:
        return 0 if Worker(folder).run() else EXIT_STOPPED
    except (LarsError, OSError) as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return _record_failure(folder, error) if folder.is_dir() else 2


def _print_plan(folder: Path) -> int:
    """Print the job's plan, or the serialized error that keeps it from being planned; return the exit status."""
    try:
        plan, status = plan_job(folder), 0
    except LarsError as error:
        plan, status = dict(serialize_error(error)), 1
    sys.stdout.write(json.dumps(plan) + "\n")
    return status


def _record_failure(folder: Path, error: Exception) -> int:
    """Write the result that says why the job failed; return the exit status, which says so where the disk is full."""
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
