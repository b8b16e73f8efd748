"""Conversations as text and token ids, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lars_agent.example import Message


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of a conversation, up to where the assistant's reply begins."""
    return list(tokenizer.encode(render_chat(tokenizer, messages, reply_follows=True), add_special_tokens=False))


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply_follows: bool) -> str:
    """Return a conversation as text; with `reply_follows` it ends with the header of the assistant's reply."""
    turns = [{"role": str(turn["role"]), "content": turn["content"]} for turn in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply_follows))
