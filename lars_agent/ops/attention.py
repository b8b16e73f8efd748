"""Grouped-query attention that saves neither attention weights nor repeated keys.

Grouped-query models share each key head between n query heads. transformers copies the keys and values n times before
it calls torch's fused attention, and autograd saves the copies. Here the fused attention is called once for each of the
n query heads of a group, with the keys uncopied: the same numbers in n calls. The fused kernel saves one number a row
(the log of the softmax's denominator) instead of the weights.

Calls with keys in a cache, and packed calls, use blockwise attention instead, see `blockwise`.
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

GROUPED = "lars_grouped"
SDPA = "sdpa"


def use_grouped_attention(model: PreTrainedModel) -> bool:
    """Make `model` use this attention if it uses torch's fused one, and return True if it now does."""
    if model.config._attn_implementation not in (SDPA, GROUPED):
        return False
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)
    return bool(model.config._attn_implementation == GROUPED)  # some models keep their own code


def reads_prefixes(model: PreTrainedModel) -> bool:
    """Return True if `model` attends to cached prefixes blockwise: it uses this attention, on a CPU."""
    return model.config._attn_implementation == GROUPED and can_attend_blockwise(model.device, model.dtype)


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return the attention (B, S, heads, D) of `query` (B, heads, S, D) over `key`, `value` (B, heads / n, K, D).

    `attention_mask`, broadcast over heads, and `options` are those of transformers, which already handles a single
    query token (decoding) without copies.
    """
    prefix = prefix_of(key)
    if prefix is not None and prefix.segments:
        attention_mask = None  # replaced by the segments
    elif attention_mask is not None and attention_mask.shape[-1] == 0:
        raise ModelUnsupported("the model's attention makes new keys of those in its cache; LARS cannot train it")
    has_prefix = query.shape[2] > 1 and key.shape[2] > query.shape[2] and not key.requires_grad
    if prefix is not None or (has_prefix and can_attend_blockwise(query.device, query.dtype)):
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
    """The attributes of an attention module that transformers reads, with one query head for each key head."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self.is_causal = getattr(module, "is_causal", True)
