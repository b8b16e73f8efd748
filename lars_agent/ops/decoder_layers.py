"""Find the decoder layers of a model: the unit of recomputation, tiling and memory checks."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder layers of `model` by name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
