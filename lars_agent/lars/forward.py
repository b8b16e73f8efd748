"""One teacher-forced forward pass over a batch, for every pooling mode, as the mode would be served.

A batch is laid out `[padding, prompt][reply, padding]`: prompts end, and replies begin, in the same column for all
rows. `response` pooling reads the prompt with the base model under `no_grad` (KV cache and pooled sums kept, nothing
else), and only the last prompt token and the reply enter autograd. The other modes run the whole sequence at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens


@dataclass(frozen=True)
class Batch:
    """Prompts and the replies to predict, as token ids.

    Attributes:
        prompt_ids, prompt_mask: (B, P) int64 and bool; padding on the left, masked out.
        reply_ids, reply_mask: (B, R) int64 and bool; padding on the right, masked out. End of turn included.
        weight: (B,) float32, how much each row's loss counts.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    reply_ids: Tensor
    reply_mask: Tensor
    weight: Tensor

    @property
    def reply_tokens(self) -> int:
        """How many tokens are predicted."""
        return int(self.reply_mask.sum())


def reply_logits(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch) -> Tensor:
    """(B, R, V): the logits that predict each token of the replies; with `adapter` None, the base model's."""
    if adapter is not None and adapter.config.pooling == "response":
        return _two_passes(attachment, adapter, batch)
    return _one_pass(attachment, adapter, batch)


def positions(mask: Tensor) -> Tensor:
    """(B, S) position ids that count real tokens only; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _one_pass(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch) -> Tensor:
    """The whole sequence at once, but for each reply's last token: it predicts nothing, and nothing pools it."""
    ids = torch.cat([batch.prompt_ids, batch.reply_ids[:, :-1]], dim=1)  # (B, P + R - 1)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)
    prompt = torch.cat([batch.prompt_mask, torch.zeros_like(batch.reply_mask[:, 1:])], dim=1)
    with attachment.call(adapter, AdapterMemory(), Tokens(real=mask, prompt=prompt)):
        return attachment.model(  # type: ignore[no-any-return]
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=batch.reply_ids.shape[1],
        ).logits


def _two_passes(attachment: Attachment, adapter: LarsAdapter, batch: Batch) -> Tensor:
    """The prompt through the base model without autograd, then its last token and the reply with the adapter."""
    memory = AdapterMemory()
    cache = read_prompt(attachment, adapter, memory, batch.prompt_ids, batch.prompt_mask)
    ids = torch.cat([batch.prompt_ids[:, -1:], batch.reply_ids[:, :-1]], dim=1)  # (B, R)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, 1:]], dim=1)  # (B, P + R - 1)
    acting = mask[:, -ids.shape[1] :]
    with attachment.call(adapter, memory, Tokens(real=acting)):
        return attachment.model(  # type: ignore[no-any-return]
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions(mask)[:, -ids.shape[1] :],
            **attachment.cached(cache),
        ).logits


@torch.no_grad()
def read_prompt(
    attachment: Attachment, adapter: LarsAdapter, memory: AdapterMemory, prompt_ids: Tensor, prompt_mask: Tensor
) -> DynamicCache:
    """The base model's KV cache of all prompt tokens but the last, (B, P - 1) long; `memory` holds the pooled sums.

    The last token's keys are dropped because that token is run again with the adapter acting.
    """
    cache = DynamicCache(config=attachment.model.config)
    with attachment.call(adapter, memory, Tokens(real=prompt_mask, reading=True)):
        attachment.model(
            input_ids=prompt_ids,
            attention_mask=prompt_mask.long(),
            position_ids=positions(prompt_mask),
            **attachment.cached(cache),
            logits_to_keep=1,
        )
    cache.crop(-1)
    return cache
