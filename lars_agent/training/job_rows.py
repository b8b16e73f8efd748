"""The rows that a job reads, as tokens: its examples in several wordings, neighbouring questions, and general text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lars_agent.errors import ExampleTooLong, ModelUnsupported
from lars_agent.example import Example, Message
from lars_agent.training.batches import Encoded, encode, step_rows
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import NEWEST, REHEARSAL_TEXT, general_text
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, read_examples
from lars_agent.training.wordings import neighbours, other_wordings


@dataclass(frozen=True)
class JobRows:
    """The rows of a job.

    Attributes:
        config: the job's, with its number of steps.
        train, heldout: the examples.
        rehearsal: general text, on which the adapter is kept close to the base model.
        neighbours: questions about somebody or something else, each with a reply that does not belong to it; there too.
    """

    config: TrainConfig
    train: Sequence[Encoded]
    heldout: Sequence[Encoded]
    rehearsal: Sequence[Encoded] = ()
    neighbours: Sequence[Encoded] = ()

    @property
    def newest(self) -> Sequence[Encoded]:
        """The trained replies that are scored too."""
        return self.train[-NEWEST:]

    def lessons(self, step: int) -> list[Encoded]:
        """Return the examples of optimizer step number `step`, shortest first."""
        return step_rows(self.train, self.config.batch_size * self.config.accumulation, step, self.config.seed)

    def references(self, step: int) -> Iterator[tuple[float, list[Encoded]]]:
        """Yield the batches of the step on which the adapter is kept close to the base model, with their weights."""
        config = self.config
        for rows, size, weight in (
            (self.rehearsal, config.rehearsal_batch, config.rehearsal_weight),
            (self.neighbours, config.neighbour_batch, config.neighbour_weight),
        ):
            if rows and size and weight:
                yield weight, step_rows(rows, size, step, config.seed)


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
    known = " ".join(example.messages[-1]["content"] for example, _ in train)
    asked_beside = (_beside(example, known, config, tokenizer) for example, _ in train)
    return JobRows(
        config=replace(config, steps=config.steps_for(max(1, len(train)))),
        train=[_with_wordings(example, row, config, tokenizer) for example, row in train],
        heldout=measured,
        rehearsal=general_text(tokenizer, REHEARSAL_TEXT),
        neighbours=[row for row in asked_beside if row is not None],
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
    texts = other_wordings(example.messages[-1]["content"]) if config.wordings else []
    others = [asked for text in texts if (asked := _asked(example, text, config, tokenizer))]
    return replace(row, others=tuple(others))


def _beside(example: Example, known: str, config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Encoded | None:
    """Return the example's reply behind a neighbouring question, and behind the others in turn."""
    texts = neighbours(example.messages[-1]["content"], known)
    rows = [asked for text in texts if (asked := _asked(example, text, config, tokenizer))]
    return replace(rows[0], others=tuple(rows[1:])) if rows else None


def _asked(example: Example, text: str, config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Encoded | None:
    """Return the example with another last message; None where that is too long."""
    last: Message = {"role": "user", "content": text}
    try:
        return encode(tokenizer, replace(example, messages=(*example.messages[:-1], last)), config.max_seq_len)
    except ExampleTooLong:
        return None
