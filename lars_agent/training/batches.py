"""Examples become token ids through the model's own chat template; prompts are padded left, replies right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lars_agent.errors import ExampleTooLong, ModelUnsupported
from lars_agent.example import Example, Message
from lars_agent.lars.forward import Batch
from lars_agent.models.chat_template import render_chat
from lars_agent.ops.padding import padded


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; the reply ends with the template's end-of-turn token."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    weight: float
    source_id: str

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def encode(tokenizer: PreTrainedTokenizerBase, example: Example, max_seq_len: int) -> Encoded:
    """`example` as token ids.

    Raises ExampleTooLong when prompt and reply exceed `max_seq_len` tokens, and ModelUnsupported when the template does
    not put the reply behind the prompt.
    """
    prompt_text = render_chat(tokenizer, example.messages, reply_follows=True)
    reply: Message = {"role": "assistant", "content": example.response}
    whole_text = render_chat(tokenizer, [*example.messages, reply], reply_follows=False)
    if not whole_text.startswith(prompt_text):
        raise ModelUnsupported("the chat template does not put the reply behind the generation prompt")
    prompt = tokenizer.encode(prompt_text, add_special_tokens=False)
    reply_ids = tokenizer.encode(
        _up_to_end_of_turn(tokenizer, whole_text[len(prompt_text) :]), add_special_tokens=False
    )
    if len(prompt) + len(reply_ids) > max_seq_len:
        raise ExampleTooLong(
            f"example {example.source_id!r} has {len(prompt) + len(reply_ids)} tokens, the limit is {max_seq_len}; "
            "raise training.max_seq_len or shorten it"
        )
    return Encoded(tuple(prompt), tuple(reply_ids), example.weight, example.source_id)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, source_id: str) -> Encoded:
    """Plain text without a chat template: its first half is the prompt, the rest is to be predicted."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    half = len(ids) // 2
    return Encoded(tuple(ids[:half]), tuple(ids[half:]), 1.0, source_id)


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """One batch of `rows`, padded to the longest prompt and the longest reply, and on to the next of a few widths."""
    return Batch(
        *_pad([row.prompt for row in rows], pad_id, left=True),
        *_pad([row.reply for row in rows], pad_id, left=False),
        weight=torch.tensor([row.weight for row in rows]),
    )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with; padding is masked, so any id will do where the tokenizer names none."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The rows of batch number `step`: an endless, seeded shuffle in which each row comes once per epoch.

    A pure function of its arguments, so that a resumed run reads the same data as an uninterrupted one.
    """
    size = min(batch_size, count)
    places = (divmod(place, count) for place in range(step * size, (step + 1) * size))
    return [_shuffled(count, seed, epoch)[index] for epoch, index in places]


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The rows of one epoch in their order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def step_rows(rows: Sequence[Encoded], batch_size: int, accumulation: int, step: int, seed: int) -> list[Encoded]:
    """The rows of optimizer step number `step`, `batch_size` x `accumulation` of them where there are so many, in the
    order in which they are worked on: those of one length together.
    """
    return by_length([rows[index] for index in batch_indices(len(rows), batch_size * accumulation, step, seed)])


def by_length(rows: Sequence[Encoded]) -> list[Encoded]:
    """The shortest first."""
    return sorted(rows, key=len)


def _up_to_end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The reply with its end-of-turn token, without what a template writes behind that (a line break, say)."""
    end = tokenizer.eos_token
    if not isinstance(end, str):
        return text
    return text[: text.rindex(end) + len(end)] if end in text else text + end


def _pad(rows: Sequence[Sequence[int]], fill: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """(B, S) ids and (B, S) bool mask."""
    width = padded(max(len(row) for row in rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask
