"""How a training step trades time for memory.

All levers are exact but two: moments in 8 bits and activations in 8 bits, whose modules state the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from lars_agent.errors import ConfigError
from lars_agent.ops.saved_tensors import Saved

__all__ = ["DEFAULT_PLAN", "MemoryPlan"]


@dataclass(frozen=True)
class MemoryPlan:
    """The levers of one training run; the fastest one by default.

    Attributes:
        micro_batch: examples whose activations exist at once; gradients are accumulated over them.
        prompt_chunk: tokens of the prompts, all together, that are read at once, without autograd (`response` pooling).
        loss_chunk: reply tokens whose logits exist at once.
        recompute: whether each decoder layer is run again in the backward pass instead of being kept.
        optimizer_bits: of AdamW's two moments, 32 or 8 (see `lars_agent.ops.adamw`).
        mlp_tile: tokens that an MLP runs over at once, 0 for all (see `lars_agent.ops.tiled_mlp`; `response` pooling).
        saved: how autograd keeps activations: `whole`, in 8 bits or on the disk (see `lars_agent.ops.saved_tensors`).
    """

    micro_batch: int = 8
    prompt_chunk: int = 512
    loss_chunk: int = 32
    recompute: bool = True
    optimizer_bits: Literal[8, 32] = 32
    mlp_tile: int = 0
    saved: Saved = "whole"

    def __post_init__(self) -> None:
        for name in ("micro_batch", "prompt_chunk", "loss_chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"plan.{name} must be at least 1, not {getattr(self, name)}")
        if self.optimizer_bits not in (8, 32):
            raise ConfigError(f"plan.optimizer_bits must be 8 or 32, not {self.optimizer_bits}")
        if self.mlp_tile < 0:
            raise ConfigError(f"plan.mlp_tile must not be negative, not {self.mlp_tile}")
        if self.saved not in get_args(Saved):
            raise ConfigError(f"plan.saved must be one of {', '.join(get_args(Saved))}, not {self.saved!r}")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MemoryPlan:
        """The plan that `as_dict` wrote. Raises ConfigError for a key or a value that cannot be."""
        unknown = sorted(set(record) - {item.name for item in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown part of a plan {unknown[0]!r}; known are {[item.name for item in fields(cls)]}")
        return cls(**record)


DEFAULT_PLAN = MemoryPlan()
