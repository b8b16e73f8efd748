"""Memory levers of a training step.

All are exact except moments in 8 bits and activations in 8 bits, whose modules state the error.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lars_agent.ops.saved_tensors import Saved
from lars_agent.records import record

Positive = Annotated[int, Field(ge=1)]


@record("plan")
class MemoryPlan:
    """The levers of one training run; the defaults are the fastest.

    Attributes:
        micro_batch: examples whose activations exist at once; gradients are accumulated over them.
        prompt_chunk: prompt tokens of one forward pass without autograd, all rows together (`response` pooling).
        loss_chunk: reply tokens whose logits exist at once.
        recompute: rerun each decoder layer in the backward pass instead of keeping its activations.
        optimizer_bits: of AdamW's two moments (see `lars_agent.ops.adamw`).
        mlp_tile: tokens of one MLP call, 0 for all (see `lars_agent.ops.tiled_mlp`; `response` pooling).
        saved: storage of autograd's activations (see `lars_agent.ops.saved_tensors`).
        kept_prompts: groups of prompts that are read once and kept (see `lars_agent.training.prompt_cache`).
    """

    micro_batch: Positive = 8
    prompt_chunk: Positive = 512
    loss_chunk: Positive = 32
    recompute: bool = True
    optimizer_bits: Literal[8, 32] = 32
    mlp_tile: Annotated[int, Field(ge=0)] = 0
    saved: Saved = "whole"
    kept_prompts: Annotated[int, Field(ge=0)] = 0


DEFAULT_PLAN = MemoryPlan()
