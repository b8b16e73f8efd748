"""Conversations as text and token ids, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lars_agent.example import Message
from lars_agent.models.template_limits import bounded_rendering

MOST_TIMES, MOST_CHARS = 4, 2**15  # of a conversation's characters, and of what each turn may add


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of a conversation, up to where the assistant's reply begins."""
    return list(tokenizer.encode(render_chat(tokenizer, messages, reply_follows=True), add_special_tokens=False))


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply_follows: bool) -> str:
    """Return a conversation as text; with `reply_follows` it ends with the header of the assistant's reply.

    Raises jinja2's TemplateError where the template refuses the conversation, or takes too long or too much for it.
    """
    turns = [{"role": str(turn["role"]), "content": turn["content"]} for turn in messages]
    with bounded_rendering():
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply_follows))
    most = sum(len(turn["content"]) for turn in turns) * MOST_TIMES + (len(turns) + 1) * MOST_CHARS
    if len(text) > most:
        raise TemplateError(f"the chat template makes {len(text):,} characters of it; {most:,} make sense")
    return text
