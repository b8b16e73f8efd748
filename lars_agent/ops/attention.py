"""Attention that keeps no attention weights and makes no repeated keys.

Grouped-query models share each key head between n query heads. transformers copies the keys and values n times before
it calls torch's fused attention, and autograd keeps the copies. Here the fused attention is called once for each of the
n query heads of a group, with the keys as they are: the same numbers, n calls for one, and nothing that grows n-fold.
The fused kernel keeps one number a row (the log of the softmax's denominator) instead of the weights.

Where a call's own keys follow on those of a cache, or it packs several sequences, they are attended to block by block
instead, see `blockwise`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lars_agent.errors import ModelUnsupported
from lars_agent.ops.blockwise import blockwise_attention, can_attend_blockwise
from lars_agent.ops.kv_cache import prefix_of

__all__ = ["GROUPED", "reads_prefixes", "use_grouped_attention"]

GROUPED = "lars_grouped"
SDPA = "sdpa"


def use_grouped_attention(model: PreTrainedModel) -> bool:
    """Whether `model` now attends as this module says; one whose attention is not torch's fused one is left alone."""
    if model.config._attn_implementation not in (SDPA, GROUPED):
        return False
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)
    return bool(model.config._attn_implementation == GROUPED)  # some models have code of their own, and keep it


def reads_prefixes(model: PreTrainedModel) -> bool:
    """Whether `model` attends as this module says, and where it says so: on a CPU."""
    return model.config._attn_implementation == GROUPED and can_attend_blockwise(model.device, model.dtype)


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """(B, S, heads, D) attention of `query` (B, heads, S, D) over `key`, `value` (B, heads / n, K, D).

    `attention_mask`, broadcast over heads, and `options` are transformers' own. One query token (decoding) is already
    packed without copies by transformers, and so goes there.
    """
    prefix = prefix_of(key)
    if prefix is not None and prefix.pieces:
        attention_mask = None  # the pieces say who sees whom
    elif attention_mask is not None and attention_mask.shape[-1] == 0:
        raise ModelUnsupported("the model's attention makes new keys of those in its cache; LARS cannot train it")
    behind_others = query.shape[2] > 1 and key.shape[2] > query.shape[2] and not key.requires_grad
    if prefix is not None or (behind_others and can_attend_blockwise(query.device, query.dtype)):
        merged = blockwise_attention(query, key, value, attention_mask, options.get("scaling"), prefix)
        return merged.transpose(1, 2), None
    heads, shared = query.shape[1], key.shape[1]
    if heads == shared or query.shape[2] == 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    groups = query.reshape(query.shape[0], shared, heads // shared, *query.shape[2:])  # head h reads key head h // n
    single: Any = _OneGroup(module)
    outputs = [
        sdpa_attention_forward(single, groups[:, :, index], key, value, attention_mask, **options)[0]
        for index in range(groups.shape[2])
    ]  # each (B, S, heads / n, D)
    return torch.stack(outputs, dim=3).flatten(2, 3), None


class _OneGroup:
    """The attention module as transformers' function looks at it, with one query head to each key head."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self.is_causal = getattr(module, "is_causal", True)
