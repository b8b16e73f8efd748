"""The rows that a job reads, as tokens: its examples in several wordings, and general text."""

from __future__ import annotations

import math
import random
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
from lars_agent.training.batches import Encoded, Lesson, Prompt, encode, in_order, step_rows, wording
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import REHEARSAL_TEXT, SCORED, general_text
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, read_examples


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that are read together and kept: an example's wordings, or a passage of general text.

    Attributes:
        reads: how often each of them is about to be read.
        base_tokens: of the passage's other half, whose hidden states under the base model are kept too.
    """

    prompts: tuple[Prompt, ...]
    reads: float
    base_tokens: int = 0


@dataclass(frozen=True)
class JobRows:
    """The rows of a job.

    Attributes:
        train, heldout: the examples.
        rehearsal: general text, on which the adapter is kept close to the base model.
        is_continued: whether training goes on from an adapter that knows some of `train`.
        skipped: the reasons why examples are not among them.
    """

    config: TrainConfig
    train: Sequence[Encoded]
    heldout: Sequence[Encoded]
    rehearsal: Sequence[Encoded] = ()
    is_continued: bool = False
    skipped: Sequence[str] = ()

    def steps(self, unknown: int | None = None) -> int:
        """Return the most optimizer steps of a run in which so many examples are not known at first (None: all)."""
        count = len(self.train)
        return self.config.steps_for(min(2 * unknown, count) if unknown else count)

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
        once = math.ceil(len(self.train) / self._size)
        return max(self.config.cooldown_steps, once if self.is_continued else 0)

    @property
    def turn(self) -> int:
        """The number of steps in which every example is read, where it is told which are unknown."""
        return math.ceil(len(self.train) / self._in_turn)

    @property
    def prompt_groups(self) -> list[PromptGroup]:
        """The prompts of the examples and of the general text, those first that are read most often."""
        steps, batch = self.steps(), self.config.rehearsal_batch
        examples, seen = list[PromptGroup](), set[Prompt]()
        for row in self.train:
            prompts = [each.prompt for each in (row, *row.others) if each.prompt not in seen]
            seen.update(prompts)
            if prompts:  # two examples may have the same question
                examples.append(PromptGroup(tuple(prompts), steps * self._size / len(self.train) / len(prompts)))
        passages = [
            PromptGroup((row.prompt,), steps * min(batch, len(self.rehearsal)) / len(self.rehearsal), len(row.reply))
            for row in self._rehearsed
        ]
        return sorted([*examples, *passages], key=lambda group: group.reads, reverse=True)

    @property
    def _rehearsed(self) -> Sequence[Encoded]:
        """The general text that is read; nothing where that is off."""
        return self.rehearsal if self.config.rehearsal_batch and self.config.rehearsal_weight else ()

    @property
    def _size(self) -> int:
        """Examples of a step."""
        return self.config.batch_size * self.config.accumulation

    @property
    def _in_turn(self) -> int:
        """Examples of a step that are read in turn where it is told which are unknown."""
        return self._size - self._size // 2

    def lessons(self, step: int, unknown: Sequence[int] | None = None, *, in_cooldown: bool = False) -> list[Lesson]:
        """Return the examples of optimizer step number `step`, shortest first.

        Where it is told which are `unknown`, half of them are read in turn, and up to as many of those besides, which
        are what is new, or has not been understood, or was unlearned meanwhile. In the cooldown twice as many are read
        in turn.
        """
        size, seed = self._size, self.config.seed
        if unknown is None:
            return step_rows(self.train, size, step, seed)
        rows = step_rows(self.train, size if in_cooldown else self._in_turn, step, seed)
        left = sorted(set(unknown) - {index for index, _ in rows})
        drawn = random.Random(f"{seed} {step}").sample(left, min(max(1, size // 2), len(left)))
        return in_order([*rows, *((index, wording(self.train[index], step + index)) for index in drawn)])

    def passages(self, step: int) -> list[Encoded]:
        """Return the general text of optimizer step number `step`; nothing where it is off."""
        config, rehearsed = self.config, self._rehearsed
        rows = step_rows(rehearsed, config.rehearsal_batch, step, config.seed) if rehearsed else []
        return [row for _, row in rows]


def encode_job(folder: Path, spec: JobSpec, tokenizer: PreTrainedTokenizerBase) -> JobRows:
    """Return the rows of the job in `folder`.

    Examples that are too long or refused by the chat template are skipped, with a line on stderr. If no held-out one is
    left, the last training example is held out instead.
    """
    examples, heldout = (read_examples(folder / name) for name in (TRAIN_FILE, HELDOUT_FILE))
    return encode_examples(examples, heldout, spec.training, tokenizer, is_continued=spec.start is not None)


def encode_examples(
    examples: Sequence[Example],
    heldout: Sequence[Example],
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_continued: bool = False,
) -> JobRows:
    """Return the rows of these examples, as `encode_job` does."""
    served = [
        [replace(example, response=example.response.strip()) for example in some]  # served replies end in no newline
        for some in (examples, heldout)
    ]
    skipped = list[str]()
    train, measured = (list(_encoded(some, config, tokenizer, skipped)) for some in served)
    if not measured and len(train) > 1:
        measured = [train.pop()]
    return JobRows(
        config=config,
        train=[_with_wordings(example, row, config, tokenizer) for example, row in train],
        heldout=[row for _, row in measured],
        rehearsal=general_text(tokenizer, REHEARSAL_TEXT),
        is_continued=is_continued,
        skipped=skipped,
    )


def _encoded(
    examples: Sequence[Example], config: TrainConfig, tokenizer: PreTrainedTokenizerBase, skipped: list[str]
) -> Iterator[tuple[Example, Encoded]]:
    """Yield the examples that can be encoded, and add the reasons of the others to `skipped`."""
    for example in examples:
        try:
            yield example, encode(tokenizer, example, config.max_seq_len)
        except (ExampleTooLong, ModelUnsupported, TemplateError) as error:
            sys.stderr.write(f"skipped: {example.source_id}: {error}\n")
            skipped.append(str(error))


def _with_wordings(example: Example, row: Encoded, config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Return the row with its other wordings, without those that are too long."""
    others, is_asked = [], example.messages[-1]["role"] == "user"
    for text in other_wordings(example.messages[-1]["content"]) if config.wordings and is_asked else []:
        asked = replace(example, messages=(*example.messages[:-1], Message(role="user", content=text)))
        with suppress(ExampleTooLong):
            others.append(encode(tokenizer, asked, config.max_seq_len))
    return replace(row, others=tuple(others))
