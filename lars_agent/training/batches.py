"""Tokenize examples with the model's chat template, and collate them into padded batches in a seeded order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import PreTrainedTokenizerBase

from lars_agent.errors import ExampleTooLong
from lars_agent.example import Example
from lars_agent.lars.forward import Batch
from lars_agent.models.chat_template import encode_reply
from lars_agent.ops.padding import padded_rows

Prompt = tuple[int, ...]  # token ids


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the reply ends with the template's end-of-turn token.

    `others` are the same example with its prompt in other wordings, which training reads in turn.
    """

    prompt: Prompt
    reply: tuple[int, ...]
    weight: float
    source_id: str
    others: tuple[Encoded, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def encode(tokenizer: PreTrainedTokenizerBase, example: Example, max_seq_len: int) -> Encoded:
    """Tokenize `example`.

    Raises ExampleTooLong above `max_seq_len` tokens, and ModelUnsupported if the template does not append the reply to
    the prompt.
    """
    prompt_ids, reply_ids = map(tuple, encode_reply(tokenizer, example.messages, example.response))
    encoded = Encoded(prompt_ids, reply_ids, example.weight, example.source_id)
    if len(encoded) > max_seq_len:
        raise ExampleTooLong(
            f"example {example.source_id!r} has {len(encoded)} tokens, the limit is {max_seq_len}; "
            "raise training.max_seq_len or shorten it"
        )
    return encoded


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, source_id: str) -> Encoded:
    """Tokenize plain text without a chat template; its first half is the prompt, the second the reply."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    half = len(ids) // 2
    return Encoded(tuple(ids[:half]), tuple(ids[half:]), 1.0, source_id)


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Return one batch, prompts padded left and replies right, see `lars_agent.ops.padding`."""
    return Batch(
        *padded_rows([row.prompt for row in rows], pad_id, left=True),
        *padded_rows([row.reply for row in rows], pad_id, left=False),
        weight=torch.tensor([row.weight for row in rows]),
    )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding id; padding is masked, so any id will do if the tokenizer names none."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> list[tuple[int, int]]:
    """Return the epochs and row indices of batch number `step` of an endless, seeded shuffle, each row once per epoch.

    A pure function of its arguments, so that a resumed run reads the same data as an uninterrupted one.
    """
    size = min(batch_size, count)
    positions = (divmod(position, count) for position in range(step * size, (step + 1) * size))
    return [(epoch, _shuffled(count, seed, epoch)[index]) for epoch, index in positions]


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """Return the row order of one epoch."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


Lesson = tuple[int, Encoded]  # the index of an example, and what is read of it


def step_rows(rows: Sequence[Encoded], count: int, step: int, seed: int) -> list[Lesson]:
    """Return the at most `count` rows of optimizer step number `step`, shortest first.

    Of a row's wordings another one is read in each epoch, beginning with that of the seed.
    """
    drawn = batch_indices(len(rows), count, step, seed)
    return in_order([(index, wording(rows[index], epoch + seed)) for epoch, index in drawn])


def wording(row: Encoded, number: int) -> Encoded:
    """Return one of the row's wordings, in turn."""
    return (row, *row.others)[number % (1 + len(row.others))]


def in_order(lessons: Sequence[Lesson]) -> list[Lesson]:
    """Return the lessons as `by_length` has their rows."""
    return sorted(lessons, key=lambda lesson: len(lesson[1]))


def by_length(rows: Sequence[Encoded]) -> list[Encoded]:
    """Return the rows, shortest first, so that micro-batches need little padding."""
    return sorted(rows, key=len)
