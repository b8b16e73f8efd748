"""The rows that a job reads, as tokens: its examples in several wordings, and general text."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lars_agent.english.wordings import other_wordings
from lars_agent.errors import ExampleTooLong, ModelUnsupported
from lars_agent.example import Example, Message
from lars_agent.training.batches import Encoded, by_length, encode, step_rows
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import REHEARSAL_TEXT, SCORED, general_text
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, read_examples


@dataclass(frozen=True)
class JobRows:
    """The rows of a job.

    Attributes:
        train, heldout: the examples.
        rehearsal: general text, on which the adapter is kept close to the base model.
        is_continued: whether training goes on from an adapter that knows some of `train`.
    """

    config: TrainConfig
    train: Sequence[Encoded]
    heldout: Sequence[Encoded]
    rehearsal: Sequence[Encoded] = ()
    is_continued: bool = False

    def steps(self, fresh: Sequence[int] = ()) -> int:
        """Return the most optimizer steps that the job takes; see `lessons`."""
        return self.config.steps_for(2 * len(fresh) or len(self.train))

    @property
    def scored(self) -> Sequence[Encoded]:
        """The trained replies that are scored too: the newest, and as many of the earlier ones, evenly."""
        if len(self.train) <= SCORED:
            return self.train
        half = SCORED // 2
        earlier = self.train[:-half]
        return [*(earlier[number * len(earlier) // half] for number in range(half)), *self.train[-half:]]

    @property
    def cooldown(self) -> int:
        """The number of last steps: where training goes on from an adapter, enough to read every example once more."""
        once = math.ceil(len(self.train) / (self.config.batch_size * self.config.accumulation))
        return max(self.config.cooldown_steps, once if self.is_continued else 0)

    def lessons(self, step: int, fresh: Sequence[int] = (), known_step: int | None = None) -> list[Encoded]:
        """Return the examples of optimizer step number `step`, shortest first.

        Of some `fresh` ones, by their indices in `train`, every step reads as many as of the others; from `known_step`
        on all are read alike, so that what was unlearned meanwhile comes back.
        """
        size, seed = self.config.batch_size * self.config.accumulation, self.config.seed
        if not fresh:
            return step_rows(self.train, size, step, seed)
        if known_step is not None and step >= known_step:
            return step_rows(self.train, size, step - known_step, seed)
        new = [self.train[index] for index in fresh]
        known = [row for index, row in enumerate(self.train) if index not in set(fresh)]
        half = max(1, size // 2)
        return by_length([*step_rows(new, size - half or 1, step, seed), *step_rows(known, half, step, seed)])

    def passages(self, step: int) -> list[Encoded]:
        """Return the general text of optimizer step number `step`; nothing where it is off."""
        config = self.config
        is_on = self.rehearsal and config.rehearsal_batch and config.rehearsal_weight
        return step_rows(self.rehearsal, config.rehearsal_batch, step, config.seed) if is_on else []


def encode_job(folder: Path, spec: JobSpec, tokenizer: PreTrainedTokenizerBase) -> JobRows:
    """Return the rows of the job in `folder`.

    Examples that are too long or refused by the chat template are skipped, with a line on stderr. If no held-out one is
    left, the last training example is held out instead.
    """
    config = spec.training
    examples, heldout = (
        [replace(example, response=example.response.strip()) for example in read_examples(folder / name)]
        for name in (TRAIN_FILE, HELDOUT_FILE)  # served replies end in no newline either
    )
    train = list(_encoded(examples, config, tokenizer))
    measured = [row for _, row in _encoded(heldout, config, tokenizer)]
    if not measured and len(train) > 1:
        measured = [train.pop()[1]]
    return JobRows(
        config=config,
        train=[_with_wordings(example, row, config, tokenizer) for example, row in train],
        heldout=measured,
        rehearsal=general_text(tokenizer, REHEARSAL_TEXT),
        is_continued=spec.start is not None,
    )


def _encoded(
    examples: Sequence[Example], config: TrainConfig, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Example, Encoded]]:
    for example in examples:
        try:
            yield example, encode(tokenizer, example, config.max_seq_len)
        except (ExampleTooLong, ModelUnsupported, TemplateError) as error:
            sys.stderr.write(f"skipped: {example.source_id}: {error}\n")


def _with_wordings(example: Example, row: Encoded, config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Return the row with its other wordings, without those that are too long."""
    others = []
    for text in other_wordings(example.messages[-1]["content"]) if config.wordings else []:
        asked = replace(example, messages=(*example.messages[:-1], Message(role="user", content=text)))
        with suppress(ExampleTooLong):
            others.append(encode(tokenizer, asked, config.max_seq_len))
    return replace(row, others=tuple(others))
