"""Compress the activations that autograd saves for the backward pass, or move them to disk.

    int8   activations in 8 bits, one scale a token; error at most 1/254 of a token's largest value
    disk   exact, in an unlinked file; one at a time in memory

Weights of model and adapter are saved by reference as always. Also unchanged: integers, small tensors, and tensors with
one number for each head and token (the log denominators of attention's backward pass).
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lars_agent.files import raise_disk_full

Saved = Literal["whole", "int8", "disk"]
MIN_NUMBERS = 2**15  # of a tensor worth compressing
MASKED = 1e30  # larger than any activation: an additive attention mask


@contextmanager
def saved_activations(
    model: nn.Module, adapter: nn.Module | None, saved: Saved, folder: Path | None = None
) -> Iterator[None]:
    """Save the activations of `model` under `adapter` as `saved` says inside the block.

    The file of `disk` is in `folder`, by default that of temporary files. Raises DiskFull.
    """
    if saved == "whole":
        yield
        return
    selected = _selector(model, adapter)
    store: Callable[[Tensor], Any]
    load: Callable[[Any], Tensor]
    if saved == "int8":
        store, load = _rounded, _restored
    else:
        scratch = _Scratch(folder or Path(tempfile.gettempdir()))
        store, load = scratch.append, scratch.read
    with saved_tensors_hooks(
        lambda tensor: store(tensor) if selected(tensor) else tensor,
        lambda stored: stored if isinstance(stored, Tensor) else load(stored),
    ):
        yield


def _rounded(tensor: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Return `tensor` as int8 levels and the scale of each token; as it is if it holds an attention mask."""
    scale = tensor.abs().amax(dim=-1, keepdim=True).float() / 127
    if not (scale < MASKED).all():
        return tensor
    steps = scale.where(scale > 0, torch.ones_like(scale)).to(tensor.dtype)
    return (tensor / steps).round_().clamp_(-127, 127).to(torch.int8), steps


def _restored(stored: tuple[Tensor, Tensor]) -> Tensor:
    levels, steps = stored
    return levels.to(steps.dtype).mul_(steps)


class _Scratch:
    """An unlinked file, closed with this object."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.end = folder, 0
        with raise_disk_full(folder):
            self._descriptor, name = tempfile.mkstemp(prefix="activations-", dir=folder)
            Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, tensor: Tensor) -> tuple[int, torch.Size, torch.dtype]:
        """Write the tensor to the file; return its offset, shape and type."""
        offset, content = self.end, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        with raise_disk_full(self.folder):
            while content:
                written = os.pwrite(self._descriptor, content, self.end)
                content, self.end = content[written:], self.end + written
        return offset, tensor.shape, tensor.dtype

    def read(self, stored: tuple[int, torch.Size, torch.dtype]) -> Tensor:
        """Read a tensor back."""
        offset, shape, dtype = stored
        size = shape.numel() * dtype.itemsize
        content = bytearray(os.pread(self._descriptor, size, offset))
        assert len(content) == size
        return torch.frombuffer(content, dtype=dtype).view(shape)


def _selector(model: nn.Module, adapter: nn.Module | None) -> Callable[[Tensor], bool]:
    """Return a predicate: True for a tensor that is an activation and large enough."""
    frozen = [*model.parameters(), *model.buffers(), *(adapter.parameters() if adapter is not None else ())]
    weights = {tensor.untyped_storage().data_ptr() for tensor in frozen}
    config = getattr(model, "config", None)
    heads = {getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")}

    def selected(tensor: Tensor) -> bool:
        return (
            tensor.is_floating_point()
            and tensor.numel() >= MIN_NUMBERS
            and tensor.untyped_storage().data_ptr() not in weights
            and not (tensor.dim() == 3 and tensor.shape[1] in heads)
        )

    return selected
