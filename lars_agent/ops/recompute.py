"""Per-layer recomputation: of each decoder layer autograd keeps its input alone.

The backward pass runs one layer forward again, goes backward through it, and forgets it, so that only one layer's
activations exist at a time (Chen et al., arXiv 1604.06174). transformers' own switch does the same but refuses to run
with a KV cache; with a `ReadOnlyCache` there is no reason to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lars_agent.ops.decoder_layers import decoder_layers

__all__ = ["Again", "recomputed", "recomputed_layers"]

Again = Callable[[], AbstractContextManager[None]]


@contextmanager
def recomputed_layers(model: nn.Module, capture: Callable[[], Again]) -> Iterator[None]:
    """Inside, the decoder layers of `model` are recomputed in backward passes of what is computed here.

    `capture` is called before each layer runs and returns what brings back, during the recomputation, the state outside
    of the layer that its forward pass reads (for LARS: which adapter acts, and on what). Random numbers are the same.
    """
    layers = decoder_layers(model).values()
    for layer in layers:
        layer.forward = recomputed(layer.forward, capture)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is seen again


def recomputed(forward: Callable[..., Any], capture: Callable[[], Again]) -> Callable[..., Any]:
    """`forward`, of which autograd keeps the arguments alone; `capture` as in `recomputed_layers`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        again, runs = capture(), 0

        def layer(*inputs: Any) -> Any:
            nonlocal runs
            runs += 1
            if runs == 1:
                return forward(*inputs, **kwargs)
            with again():
                return forward(*inputs, **kwargs)

        return checkpoint(layer, *args, use_reentrant=False)

    return run
