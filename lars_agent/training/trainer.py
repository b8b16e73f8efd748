"""Train an adapter and keep its last step, or with `patience` the step with the lowest held-out loss.

By default the last step is kept, because the held-out loss can mislead (see `lars_agent.training.gate`). A run is a
pure function of its seed, data and thread count; interrupted and resumed, it ends in the same bytes.
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
from lars_agent.lars.inject import Attachment, LarsAdapter
from lars_agent.lars.state import adapter_tensors, load_state
from lars_agent.ops.adamw import FlatAdamW
from lars_agent.ops.memory_plan import DEFAULT_PLAN, MemoryPlan
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.training.batches import Encoded, Lesson, collate, in_order
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import divergence_from_base, shares_right, token_losses, token_nll
from lars_agent.training.job_rows import JobRows
from lars_agent.training.prompt_cache import PromptCache

BEST_FILE = "best.safetensors"
T = TypeVar("T")


@dataclass
class Progress:
    """State of a run; with adapter, best adapter, optimizer and RNG state it is all that a checkpoint needs.

    `best_step` is the step kept so far (None before the first evaluation), `best_loss` its held-out loss. `unknown` are
    the indices of the examples that did not come out right when they were read last, `first_unknown` those of them at
    first, and `known_step` is the step at which few enough were left (None before).
    """

    step: int = 0
    loss: float = math.nan
    best_step: int | None = None
    best_loss: float = math.inf
    heldout_loss: float | None = None
    evaluations_since_best: int = 0
    first_unknown: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    known_step: int | None = None


def no_smaller_plan(held_bytes: int) -> MemoryPlan:
    """Raise BudgetExceeded: there is no smaller plan."""
    raise BudgetExceeded(f"training holds {held_bytes:,} bytes, too many for its budget; raise memory.budget_bytes")


class Trainer:
    """One training run of `adapter` on a job's rows.

    The best adapter so far is stored in `folder` (None: a temporary one), not in memory. `smaller_plan` returns the
    plan to continue with under memory pressure, given the bytes held. Raises NothingToLearn if no example is to be
    trained on, or none is held out.
    """

    def __init__(
        self,
        attachment: Attachment,
        adapter: LarsAdapter,
        rows: JobRows,
        pad_id: int,
        plan: MemoryPlan = DEFAULT_PLAN,
        folder: Path | None = None,
        smaller_plan: Callable[[int], MemoryPlan] = no_smaller_plan,
    ) -> None:
        if not rows.train or not rows.heldout:
            reasons = (
                f"; {len(rows.skipped)} were left out, the last because {rows.skipped[-1]}" if rows.skipped else ""
            )
            raise NothingToLearn(
                f"{len(rows.train)} examples to train on and {len(rows.heldout)} held out; both must be at least 1"
                + reasons
            )
        self.attachment, self.adapter, self.config, self.plan = attachment, adapter, rows.config, plan
        self.rows, self.pad_id = rows, pad_id
        self.optimizer = FlatAdamW(adapter.parameters(), rows.config.weight_decay, plan.optimizer_bits)
        self.prompts = PromptCache(attachment, adapter, [group.prompts for group in rows.prompt_groups], pad_id)
        self.progress = Progress()
        self._smaller_plan = smaller_plan
        self._check: Callable[[], None] = lambda: None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="lars-agent-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.best_file = folder / BEST_FILE

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_checkpoint: Callable[[Trainer], object] = lambda trainer: None,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Train, load the step kept, and return True; return False if `check` raised Preempted.

        `on_step` is called after each step, `check` after each micro-batch (it may also raise MemoryPressure, see
        `within_budget`), `on_checkpoint` every `checkpoint_every` steps, on preemption and at the end.
        """
        self._check = check
        try:
            self.within_budget(self._begin)
            while self._evaluation_due() or (self.progress.step < self.last_step and not self._out_of_patience()):
                self.within_budget(check)
                if not self._evaluation_due():  # else the run was interrupted before it
                    self.within_budget(self._step)
                if self._evaluation_due():
                    self.within_budget(self._evaluate)
                on_step(self.progress)
                if self.progress.step % self.config.checkpoint_every == 0:
                    on_checkpoint(self)
        except Preempted:
            if self.progress.best_step is not None:
                on_checkpoint(self)
            return False
        on_checkpoint(self)  # the final scoring may be interrupted too
        load_state(self.adapter, read_tensors(self.best_file))
        return True

    @property
    def last_step(self) -> int:
        """The number of steps in all, as far as it is known yet."""
        known_step = self.progress.known_step
        return self._most_steps if known_step is None else min(self._most_steps, known_step + self.rows.cooldown)

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step` (from 0)."""
        return learning_rate(step, self.config, self._most_steps, self.progress.known_step, self.rows.cooldown)

    @property
    def _most_steps(self) -> int:
        return self.rows.steps(len(self.progress.first_unknown))

    def token_losses(self, adapters: Sequence[LarsAdapter | None], rows: Sequence[Encoded]) -> list[Tensor]:
        """Return `token_losses` under the plan in use; may raise MemoryPressure or Preempted."""
        return token_losses(self.attachment, adapters, rows, self.pad_id, self._check, self.plan)

    def _own_losses(self, rows: Sequence[Encoded]) -> Tensor:
        (losses,) = self.token_losses([self.adapter], rows)
        return losses

    def within_budget(self, work: Callable[[], T]) -> T:
        """Return the result of `work`; after MemoryPressure, repeat it under a smaller plan.

        Interrupted work is undone: no step is lost or half taken. The same holds on Preempted, which is raised.
        """
        while True:
            rng_state = torch.get_rng_state()
            try:
                return work()
            except MemoryPressure as pressure:
                held_bytes = pressure.held_bytes
            except Preempted:
                self._undo(rng_state)
                raise
            self._undo(rng_state)
            gc.collect()  # the work's tensors are in reference cycles
            self.plan = self._smaller_plan(held_bytes)
            self.optimizer.use_bits(self.plan.optimizer_bits)
            self.prompts.use(self.plan)

    def _undo(self, rng_state: Tensor) -> None:
        """Discard an interrupted step: restore the RNG state and clear the gradient."""
        torch.set_rng_state(rng_state)
        self.optimizer.gradient.zero_()

    def _evaluation_due(self) -> bool:
        """Return True if the held-out loss is to be measured after the last step and has not been."""
        step = self.progress.step
        due = step % self.config.evaluate_every == 0 or step == self.last_step
        return step > 0 and due and self.progress.heldout_loss is None

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_since_best

    def _begin(self) -> None:
        """Seed the dropout of a new run and evaluate the adapter, untrained or as it is in use."""
        if self.progress.best_step is None:
            torch.manual_seed(self.config.seed)
            self.progress.unknown = self._unknown() if self.rows.is_continued else tuple(range(len(self.rows.train)))
            self.progress.first_unknown = self.progress.unknown
            self._evaluate()

    def _unknown(self) -> tuple[int, ...]:
        """Return the indices of the examples that the adapter does not know."""
        train = self.rows.train
        ordered = in_order(list(enumerate(train)))  # as `token_losses` has them
        return self._noted(ordered, shares_right(self._own_losses(train), train))

    def _step(self) -> None:
        """Take one optimizer step over its micro-batches, with the same weight for each reply token in all of them."""
        self.adapter.train()
        config, progress, size = self.config, self.progress, self.plan.micro_batch
        lessons = self._lessons()
        rows = [row for _, row in lessons]
        weighted_tokens = sum(row.weight * len(row.reply) for row in rows)
        total, shares = 0.0, list[float]()
        for start in range(0, len(rows), size):
            loss, right = self._learn(rows[start : start + size], weighted_tokens)
            total, shares = total + loss, shares + right
            self._check()
        if passages := self.rows.passages(progress.step):
            self._rehearse(passages)
            self._check()
        self.optimizer.clip(config.clip_norm)
        self.optimizer.step(self.rate(progress.step))
        progress.step += 1
        progress.loss, progress.heldout_loss = total, None
        progress.unknown = self._noted(lessons, shares)
        # What was known at first may have been unlearned meanwhile.
        has_read_all = not self.rows.is_continued or progress.step >= self.rows.turn
        if progress.known_step is None and has_read_all and self._is_known() and not config.steps:
            progress.known_step = progress.step

    def _is_known(self) -> bool:
        """Tell if enough examples are known: of all, and of those that were not at first, which are few among many."""
        unknown = set(self.progress.unknown)
        groups = (range(len(self.rows.train)), self.progress.first_unknown)
        return all(len(unknown.intersection(rows)) <= (1 - self.config.known_examples) * len(rows) for rows in groups)

    def _lessons(self) -> list[Lesson]:
        """Return what the next step reads: all alike, or, going on from an adapter, what is not known more often."""
        step, known_step = self.progress.step, self.progress.known_step
        unknown = self.progress.unknown if self.rows.is_continued and not self.config.steps else None
        if known_step is not None:
            return self.rows.lessons(step - known_step, unknown, in_cooldown=True)
        return self.rows.lessons(step, unknown)

    def _noted(self, lessons: Sequence[Lesson], shares: Sequence[float]) -> tuple[int, ...]:
        """Return the indices of the unknown examples after some have been read with these shares of right tokens."""
        unknown = set(self.progress.unknown)
        for (index, _), share in zip(lessons, shares, strict=True):
            (unknown.discard if share >= self.config.known_share else unknown.add)(index)
        return tuple(sorted(unknown))

    def _learn(self, rows: Sequence[Encoded], weighted_tokens: float) -> tuple[float, list[float]]:
        """Add the gradient of some rows; return their part of the loss, and the share of right tokens of each.

        All intermediate tensors are freed on return.
        """
        batch = collate(rows, self.pad_id)
        prompts = self.prompts.of(rows, self.plan)
        nll = token_nll(self.attachment, self.adapter, batch, self.plan, prompts)  # (T,)
        loss = (nll * batch.weight[batch.reply_mask.nonzero()[:, 0]]).sum() / weighted_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), shares_right(nll.detach(), rows)

    def _rehearse(self, rows: Sequence[Encoded]) -> None:
        """Add the gradient of the divergence from the base model on `rows`; frees all intermediate tensors.

        Without it, training on one person's narrow feedback changes the model's replies to any text.
        """
        batch, prompts = collate(rows, self.pad_id), self.prompts.of(rows, self.plan)
        base = self.prompts.base_hidden(rows, self.plan)
        divergence = divergence_from_base(self.attachment, self.adapter, batch, self.plan, prompts, base)
        (self.config.rehearsal_weight * divergence).backward()  # type: ignore[no-untyped-call]

    def _evaluate(self) -> None:
        """Measure the held-out loss; keep the adapter unless `patience` is set and an earlier one had a lower loss."""
        progress = self.progress
        progress.heldout_loss = float(self._own_losses(self.rows.heldout).mean())
        progress.evaluations_since_best += 1
        if progress.best_step is None or progress.heldout_loss < progress.best_loss or not self.config.patience:
            write_atomically(self.best_file, tensor_file(adapter_tensors(self.adapter)))
            progress.best_loss, progress.best_step = progress.heldout_loss, progress.step
            progress.evaluations_since_best = 0


def learning_rate(
    step: int, config: TrainConfig, steps: int, known_step: int | None = None, cooldown: int | None = None
) -> float:
    """Return the learning rate of step number `step` (from 0) of `steps`: linear warm-up, then a cosine to zero.

    From `known_step` on it falls to zero in a straight line, over `cooldown` steps (None: `config.cooldown_steps`).
    """
    if known_step is not None and step >= known_step:
        before = learning_rate(known_step, config, steps)
        return before * (1 - (step - known_step) / (cooldown or config.cooldown_steps))
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
