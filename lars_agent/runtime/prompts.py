"""Prompts without the chat template, and replies that the client has begun."""

from __future__ import annotations

from contextlib import suppress

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lars_agent.errors import PromptRefused
from lars_agent.models.chat_template import encode_prompt
from lars_agent.runtime.request import GenerationRequest

CONTEXT = 4  # tokens of a prompt behind which the first of a continuation is decoded


def encode_raw(tokenizer: PreTrainedTokenizerBase, raw: str | tuple[int, ...], vocabulary: int) -> list[int]:
    """Return the token ids of a text to continue, or check given ones. Raises PromptRefused."""
    ids = list(tokenizer.encode(raw) if isinstance(raw, str) else raw)
    if not ids:
        raise PromptRefused("the prompt is empty; give at least one token to continue")
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise PromptRefused(f"token {wrong} of the prompt is none of the model's {vocabulary}")
    return ids


def prompt_text(tokenizer: PreTrainedTokenizerBase, request: GenerationRequest) -> str:
    """Return the text of a raw prompt that is echoed, or was given as token ids; nothing for others."""
    if isinstance(request.raw, tuple):
        return str(tokenizer.decode(list(request.raw), clean_up_tokenization_spaces=False))
    return request.raw or "" if request.echo else ""


def encode_prefill(tokenizer: PreTrainedTokenizerBase, request: GenerationRequest) -> tuple[int, ...]:
    """Return the token ids of the beginning of the reply; none where there is none, or a token reaches across."""
    if request.prefill:
        with suppress(TemplateError):
            prompt = encode_prompt(tokenizer, request.messages)
            begun = encode_prompt(tokenizer, request.messages, prefill=request.prefill)
            if begun[: len(prompt)] == prompt:
                return tuple(begun[len(prompt) :])
    return ()


def tokens_before(request: GenerationRequest, prompt: list[int]) -> list[int]:
    """Return the tokens behind whose text that of the reply goes on; none where the reply begins by itself."""
    return prompt[-CONTEXT:] if request.prefill or request.raw is not None else []
