"""Tiled MLPs: run each decoder layer's MLP over a tile of tokens at a time, and recompute it in the backward pass.

An MLP is several times as wide as the model, so its activations dominate the memory of one layer's backward pass.
Exact, at the cost of one more forward pass of the MLP. Only for calls in which MLP and adapter treat each token
independently: `response` pooling after its prompt pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.ops.recompute import Recall, recomputed

NAMES = ("mlp", "feed_forward", "ffn")


def mlp_of(layer: nn.Module) -> nn.Module | None:
    """Return the MLP of a decoder layer; None if it has none with a known name."""
    return next((mlp for name in NAMES if isinstance(mlp := getattr(layer, name, None), nn.Module)), None)


@contextmanager
def tiled_mlps(
    model: nn.Module, tile: int, capture: Callable[[], Recall], part: Callable[[slice], AbstractContextManager[None]]
) -> Iterator[None]:
    """Run the MLPs of `model` over `tile` tokens at a time while autograd is on.

    `capture` as in `recomputed_layers`; recomputation of whole layers must be entered inside this block. `part`
    restricts the call's state to a slice of its tokens. MLPs of unknown name are not tiled.
    """
    mlps = [mlp for layer in decoder_layers(model).values() if (mlp := mlp_of(layer)) is not None]
    for mlp in mlps:
        mlp.forward = _tiled(mlp.forward, tile, capture, part)
    try:
        yield
    finally:
        for mlp in mlps:
            del mlp.forward  # uncovers the class's method


def _tiled(
    forward: Callable[[Tensor], Tensor],
    tile: int,
    capture: Callable[[], Recall],
    part: Callable[[slice], AbstractContextManager[None]],
) -> Callable[..., Any]:
    recompute = recomputed(forward, capture)

    def run(states: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or states.shape[1] <= tile:
            return forward(states)
        tiles, (rows, _, width) = [], states.shape
        for start in range(0, states.shape[1], tile):
            # Contiguous strides, also for a view: torch chooses kernels by strides, and a restored tile has these.
            own = states[:, start : start + tile].reshape(-1, width).view(rows, -1, width)
            with part(slice(start, start + tile)):
                tiles.append(recompute(own))
        return torch.cat(tiles, dim=1)

    return run
