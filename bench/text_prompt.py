"""Ordinary text of an exact number of tokens."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from lars_agent.errors import LarsError
from lars_agent.training.evaluate import general_text


def text_of(tokenizer: PreTrainedTokenizerFast, count: int, start: int = 0) -> str:
    """A text that `tokenizer` reads as `count` tokens, from word number `start` of the gate's general text on.

    Raises LarsError where no piece of that text is so long.
    """
    words = [token for row in general_text(tokenizer) for token in (*row.prompt, *row.reply)]
    words = words[start % len(words) :] + words[: start % len(words)]
    text = str(tokenizer.decode((words * (1 + count // len(words)))[: count + 8]))
    for end in range(len(text), 0, -1):
        if len(tokenizer.encode(text[:end])) == count:
            return text[:end]
    raise LarsError(f"no text of {count} tokens")
