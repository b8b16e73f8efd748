"""Greedy replies of a model, with an adapter or without, to many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from lars_agent.example import Message
from lars_agent.lars.forward import positions, read_prompt
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.training.batches import Encoded, collate, encode_prompt, pad_id

REPLY_TOKENS = 40
BATCH = 16


@torch.no_grad()
def replies(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = REPLY_TOKENS,
) -> list[str]:
    """Greedy replies to `prompts`, decoded with the KV cache in batches, as the endpoint would decode each alone."""
    if adapter is not None:
        adapter.eval()
    rows = [
        Encoded(tuple(encode_prompt(tokenizer, [Message(role="user", content=prompt)])), (0,), 1.0, str(index))
        for index, prompt in enumerate(prompts)
    ]
    rows.sort(key=lambda row: len(row.prompt))
    texts: dict[int, str] = {}
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        ids = _decode(attachment, adapter, collate(some, pad_id(tokenizer)), tokenizer.eos_token_id, max_new_tokens)
        for row, line in zip(some, ids.tolist(), strict=True):
            end = line.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in line else len(line)
            texts[int(row.source_id)] = tokenizer.decode(line[:end], skip_special_tokens=True).strip()
    return [texts[index] for index in range(len(prompts))]


def _decode(attachment: Attachment, adapter: LarsAdapter | None, batch: Any, end: int, max_new_tokens: int) -> Tensor:
    """(B, T) greedily chosen ids; rows go on after their end, to be cut by the caller."""
    memory, mask, ids = AdapterMemory(), batch.prompt_mask, batch.prompt_ids
    if adapter is not None and adapter.config.pooling == "response":
        cache = read_prompt(attachment, adapter, memory, ids, mask)
        ids = ids[:, -1:]
    else:
        cache = DynamicCache(config=attachment.model.config)
    chosen: list[Tensor] = []
    ended = torch.zeros(len(mask), dtype=torch.bool)
    for step in range(max_new_tokens):
        real = mask[:, -ids.shape[1] :]
        tokens = Tokens(real=real, prompt=real if step == 0 else None, offset=mask.sum(1) - real.sum(1))
        with attachment.call(adapter, memory, tokens):
            logits = attachment.model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions(mask)[:, -ids.shape[1] :],
                **attachment.cached(cache),
                logits_to_keep=1,
            ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(ids)
        ended |= ids[:, 0] == end
        if ended.all():
            break
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)
    return torch.cat(chosen, dim=1)
