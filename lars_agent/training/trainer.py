"""Train an adapter and keep its last step, or with `patience` the step with the lowest held-out loss.

The held-out loss does not choose the step by itself: a fact that a person corrects once is either trained or held out,
and the loss on a fact that was not trained rises as the adapter becomes sure of the others. The loop is a pure function
of its seed, its data and its thread count: a run that is interrupted and resumed ends in the same bytes as one that is
not.
"""

from __future__ import annotations

import gc
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from lars_agent.errors import BudgetExceeded, MemoryPressure, NothingToLearn, Preempted
from lars_agent.files import write_atomically
from lars_agent.lars.forward import Batch
from lars_agent.lars.inject import Attachment, LarsAdapter
from lars_agent.lars.state import adapter_tensors, load_state
from lars_agent.ops.adamw import FlatAdamW
from lars_agent.ops.memory_plan import DEFAULT_PLAN, MemoryPlan
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.training.batches import Encoded, collate, step_rows
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import divergence_from_base, mean_loss, reply_nll

BEST_FILE = "best.safetensors"
Done = TypeVar("Done")


@dataclass
class Progress:
    """State of a run; together with adapter, best adapter, optimizer and RNG it is all that a checkpoint needs.

    `best_step` is the step kept so far, `best_loss` its held-out loss. `best_step` is None before the first evaluation.
    """

    step: int = 0
    loss: float = math.nan
    best_step: int | None = None
    best_loss: float = math.inf
    heldout_loss: float | None = None
    evaluations_since_best: int = 0


def no_smaller_plan(held_bytes: int) -> MemoryPlan:
    """Raises BudgetExceeded: there is no other plan."""
    raise BudgetExceeded(f"training holds {held_bytes:,} bytes, too many for its budget; raise memory.budget_bytes")


class Trainer:
    """One training run of `adapter` on `train`, judged on `heldout`.

    The best adapter so far lies in `folder` (None: a temporary one), not in memory. `smaller` gives the plan to go on
    with when so many bytes are held and that is too near the budget. Raises NothingToLearn when there is nothing to
    learn or to judge by.
    """

    def __init__(
        self,
        attachment: Attachment,
        adapter: LarsAdapter,
        config: TrainConfig,
        train: Sequence[Encoded],
        heldout: Sequence[Encoded],
        pad_id: int,
        rehearsal: Sequence[Encoded] = (),
        plan: MemoryPlan = DEFAULT_PLAN,
        folder: Path | None = None,
        smaller: Callable[[int], MemoryPlan] = no_smaller_plan,
    ) -> None:
        if not train or not heldout:
            raise NothingToLearn(
                f"{len(train)} examples to learn and {len(heldout)} to judge by; both must be at least 1"
            )
        self.attachment, self.adapter, self.config, self.plan = attachment, adapter, config, plan
        self.train_rows, self.heldout_rows, self.pad_id = train, heldout, pad_id
        self.rehearsal_rows = rehearsal if config.rehearsal_batch and config.rehearsal_weight else ()
        self.optimizer = FlatAdamW(adapter.parameters(), config.weight_decay, plan.optimizer_bits)
        self._smaller = smaller
        self.progress = Progress()
        self.best_file = (self._scratch() if folder is None else folder) / BEST_FILE

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_checkpoint: Callable[[Trainer], None] = lambda trainer: None,
        between: Callable[[], None] = lambda: None,
    ) -> bool:
        """True when all steps are done (the adapter then holds the step kept), False when `between` raised Preempted.

        `on_step` is called after each step, `between` after each piece of work (it may also raise MemoryPressure, see
        `within_budget`), `on_checkpoint` every `checkpoint_every` steps, before stopping, and at the end of training.
        """
        try:
            self._run(on_step, on_checkpoint, between)
        except Preempted:
            if self.progress.best_step is not None:
                on_checkpoint(self)
            return False
        load_state(self.adapter, read_tensors(self.best_file))
        return True

    def _run(
        self,
        on_step: Callable[[Progress], None],
        on_checkpoint: Callable[[Trainer], None],
        between: Callable[[], None],
    ) -> None:
        self.within_budget(lambda: self._begin(between))
        while self._is_owed_evaluation() or (self.progress.step < self.config.steps and not self._out_of_patience()):
            self.within_budget(between)
            if not self._is_owed_evaluation():  # else it was interrupted there
                self.within_budget(lambda: self._step(between))
            if self._is_owed_evaluation():
                self.within_budget(lambda: self._evaluate(between))
            on_step(self.progress)
            if self.progress.step % self.config.checkpoint_every == 0:
                on_checkpoint(self)
        on_checkpoint(self)  # what is measured after it may be interrupted too

    def release(self) -> None:
        """Training is over: gradients and moments are let go of."""
        self.optimizer.release()

    def within_budget(self, work: Callable[[], Done]) -> Done:
        """What `work` gives; where it raises MemoryPressure it is done again under the plan that `smaller` says.

        It is as if it had not been begun: no step is lost and none is half taken. So it is where Preempted comes, which
        is raised.
        """
        while True:
            random = torch.get_rng_state()
            try:
                return work()
            except MemoryPressure as pressure:
                held_bytes = pressure.held_bytes
            except Preempted:
                self._undo(random)
                raise
            self._undo(random)
            gc.collect()  # what the work had made lies in reference cycles
            self.plan = self._smaller(held_bytes)
            self.optimizer.use_bits(self.plan.optimizer_bits)

    def _undo(self, random: Tensor) -> None:
        """The step that was being taken has left nothing; `random` was the generator's state before it."""
        torch.set_rng_state(random)
        self.optimizer.gradient.zero_()

    def _is_owed_evaluation(self) -> bool:
        """Whether the last step is one after which the held-out loss is measured, and that has not been done."""
        step = self.progress.step
        due = step % self.config.evaluate_every == 0 or step == self.config.steps
        return step > 0 and due and self.progress.heldout_loss is None

    def _scratch(self) -> Path:
        """A folder that goes with this trainer."""
        folder = tempfile.mkdtemp(prefix="lars-agent-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _begin(self, between: Callable[[], None]) -> None:
        """Seed the dropout of a fresh run and evaluate the untrained adapter."""
        if self.progress.best_step is not None:
            return
        torch.manual_seed(self.config.seed)
        self._evaluate(between)

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_since_best

    def _step(self, between: Callable[[], None]) -> None:
        """One optimizer step over its micro-batches, each reply token weighing the same in all of them."""
        self.adapter.train()
        config = self.config
        rows = step_rows(self.train_rows, config.batch_size, config.accumulation, self.progress.step, config.seed)
        weighted_tokens = sum(row.weight * len(row.reply) for row in rows)
        total = 0.0
        size = self.plan.micro_batch
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size], self.pad_id)
            total += self._learn(batch, weighted_tokens)
            between()
        self._rehearse(between)
        self.optimizer.clip(self.config.clip_norm)
        self.optimizer.step(learning_rate(self.progress.step, self.config))
        self.progress.step += 1
        self.progress.loss, self.progress.heldout_loss = total, None

    def _learn(self, batch: Batch, weighted_tokens: float) -> float:
        """Adds the batch's gradient; returns its part of the loss. What it took to compute it is gone then."""
        nll = reply_nll(self.attachment, self.adapter, batch, self.plan)  # (B,)
        loss = (nll * batch.weight).sum() / weighted_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _rehearse(self, between: Callable[[], None]) -> None:
        """Adds the gradient that holds the adapted model to the base model on general text.

        What a person says is narrow; without this the adapter bends every text their way (see the gate's `text_loss`).
        """
        if not self.rehearsal_rows:
            return
        size = self.config.rehearsal_batch
        rows = step_rows(self.rehearsal_rows, size, 1, self.progress.step, self.config.seed)
        self._hold_to_base(collate(rows, self.pad_id))
        between()

    def _hold_to_base(self, batch: Batch) -> None:
        """Adds the gradient of the batch's divergence. What it took to compute it is gone then."""
        divergence = divergence_from_base(self.attachment, self.adapter, batch, self.plan)
        (self.config.rehearsal_weight * divergence).backward()  # type: ignore[no-untyped-call]

    def _evaluate(self, between: Callable[[], None]) -> None:
        """Measure the held-out loss; keep the adapter unless `patience` is set and an earlier one had a lower loss."""
        progress = self.progress
        progress.heldout_loss = mean_loss(
            self.attachment, self.adapter, self.heldout_rows, self.pad_id, between, self.plan
        )
        progress.evaluations_since_best += 1
        is_first, is_lower = progress.best_step is None, progress.heldout_loss < progress.best_loss
        if is_first or is_lower or not self.config.patience:
            write_atomically(self.best_file, tensor_file(adapter_tensors(self.adapter)))
            progress.best_loss, progress.best_step = progress.heldout_loss, progress.step
            progress.evaluations_since_best = 0


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step number `step` (from 0): linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
