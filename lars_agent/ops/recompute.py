"""Per-layer activation recomputation (Chen et al., arXiv 1604.06174): autograd saves only each layer's input.

The backward pass runs one layer forward again, so that only one layer's activations exist at a time. transformers'
own switch does the same but refuses KV caches; with a `ReadOnlyCache` recomputation is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lars_agent.ops.decoder_layers import decoder_layers

Recall = Callable[[], AbstractContextManager[None]]


@contextmanager
def recomputed_layers(model: nn.Module, capture: Callable[[], Recall]) -> Iterator[None]:
    """Recompute the decoder layers of `model` in the backward pass of everything computed inside the block.

    `capture` is called before each layer runs. It returns a context manager factory that restores, during the
    recomputation, the state outside of the layer that its forward pass reads. Random numbers repeat.
    """
    layers = decoder_layers(model).values()
    for layer in layers:
        layer.forward = recomputed(layer.forward, capture)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # uncovers the class's method


def recomputed(forward: Callable[..., Any], capture: Callable[[], Recall]) -> Callable[..., Any]:
    """Wrap `forward` so that autograd saves only its arguments; `capture` as in `recomputed_layers`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        recall = capture()
        return checkpoint(
            partial(forward, **kwargs), *args, use_reentrant=False, context_fn=lambda: (nullcontext(), recall())
        )

    return run
