"""The MLP of each decoder layer over a tile of tokens at a time.

An MLP is several times as wide as the model, so its activations are most of what one layer's backward pass holds. It
treats each token by itself: here it runs over `tile` tokens, forgets what is in between, and is run again in the
backward pass, tile by tile. Exact, for one more forward pass of the MLP. Only for calls whose adapter treats each token
by itself too: `response` pooling after its prompt is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.ops.recompute import Again, recomputed

__all__ = ["mlp_of", "tiled_mlps"]

NAMES = ("mlp", "feed_forward", "ffn")


def mlp_of(layer: nn.Module) -> nn.Module | None:
    """The MLP of a decoder layer; None where it has none that is known."""
    return next((found for name in NAMES if isinstance(found := getattr(layer, name, None), nn.Module)), None)


@contextmanager
def tiled_mlps(
    model: nn.Module, tile: int, capture: Callable[[], Again], part: Callable[[slice], AbstractContextManager[None]]
) -> Iterator[None]:
    """Inside, the MLPs of `model` run over `tile` tokens at a time where gradients are wanted.

    `capture` as in `recomputed_layers`; where layers are recomputed themselves, that must happen inside too. What runs
    inside `part` is about those of the call's tokens alone. Where the MLP is not known it is left alone.
    """
    mlps = [mlp for layer in decoder_layers(model).values() if (mlp := mlp_of(layer)) is not None]
    for mlp in mlps:
        mlp.forward = _tiled(mlp.forward, tile, capture, part)
    try:
        yield
    finally:
        for mlp in mlps:
            del mlp.forward  # the class's own is seen again


def _tiled(
    forward: Callable[[Tensor], Tensor],
    tile: int,
    capture: Callable[[], Again],
    part: Callable[[slice], AbstractContextManager[None]],
) -> Callable[..., Any]:
    again = recomputed(forward, capture)

    def run(states: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or states.shape[1] <= tile:
            return forward(states)
        made = []
        for start in range(0, states.shape[1], tile):
            with part(slice(start, start + tile)):
                made.append(again(_piece(states, start, tile)))
        return torch.cat(made, dim=1)

    return run


def _piece(states: Tensor, start: int, tile: int) -> Tensor:
    """A tile of `states` (B, S, H), with the strides of a tensor of its own also where it is none (B = 1).

    torch chooses its kernels by strides, and a tile that was kept elsewhere must take the same ones.
    """
    rows, _, width = states.shape
    return states[:, start : start + tile].reshape(-1, width).view(rows, -1, width)
