"""The decoder layers of a model: what is recomputed, tiled, watched and adapted as one."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["decoder_layers"]


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder layers of `model` by name, the first one first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
