"""What autograd keeps for the backward pass, made smaller or put on the disk.

    int8   activations in 8 bits, one scale a token; off by 1/254 of a token's largest value at most
    disk   in an unlinked file, to the byte; memory holds one at a time

Weights, and the adapter's, are not copied: what autograd keeps of them is where they lie. Kept as they are too: whole
numbers, small tensors, and what has a number for each head and token (the logarithms that attention's backward pass
starts from).
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lars_agent.files import raise_disk_full

__all__ = ["Saved", "saved_activations"]

Saved = Literal["whole", "int8", "disk"]
LEAST_NUMBERS = 2**15  # of a tensor that is worth the trouble
MASKED = 1e30  # no activation is so large: a mask that is added to scores


def saved_activations(
    model: nn.Module, adapter: nn.Module | None, how: Saved, folder: Path | None = None
) -> AbstractContextManager[Any]:
    """Inside, what autograd keeps of the activations of `model` under `adapter` is kept so.

    The file of `disk` lies in `folder`, or where temporary files do, and goes with the last tensor in it. Raises
    DiskFull where it cannot grow.
    """
    if how == "whole":
        return nullcontext()
    worth = _worth(model, adapter)
    return _int8(worth) if how == "int8" else _on_disk(worth, folder or Path(tempfile.gettempdir()))


@dataclass(frozen=True)
class _Rounded:
    levels: Tensor  # int8
    scale: Tensor  # one a token
    dtype: torch.dtype


@dataclass(frozen=True)
class _Stored:
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


@contextmanager
def _int8(worth: Callable[[Tensor], bool]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor | _Rounded:
        if not worth(tensor):
            return tensor
        scale = tensor.abs().amax(dim=-1, keepdim=True).float() / 127  # one a token
        if not (scale < MASKED).all():
            return tensor
        steps = scale.where(scale > 0, torch.ones_like(scale)).to(tensor.dtype)
        return _Rounded((tensor / steps).round_().clamp_(-127, 127).to(torch.int8), steps, tensor.dtype)

    def unpack(kept: Tensor | _Rounded) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept.levels.to(kept.dtype).mul_(kept.scale)

    with saved_tensors_hooks(pack, unpack):
        yield


class _Scratch:
    """A file without a name, that goes with this object."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.end = folder, 0
        with raise_disk_full(folder):
            self._descriptor, name = tempfile.mkstemp(prefix="activations-", dir=folder)
            Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, tensor: Tensor) -> _Stored:
        """The tensor is in the file."""
        place, content = self.end, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        with raise_disk_full(self.folder):
            while content:
                written = os.pwrite(self._descriptor, content, self.end)
                content, self.end = content[written:], self.end + written
        return _Stored(place, tensor.shape, tensor.dtype)

    def read(self, stored: _Stored) -> Tensor:
        """The tensor as it was."""
        content = bytearray(os.pread(self._descriptor, stored.nbytes, stored.offset))
        assert len(content) == stored.nbytes
        return torch.frombuffer(content, dtype=stored.dtype).view(stored.shape)


@contextmanager
def _on_disk(worth: Callable[[Tensor], bool], folder: Path) -> Iterator[None]:
    scratch = _Scratch(folder)

    def pack(tensor: Tensor) -> Tensor | _Stored:
        return scratch.append(tensor) if worth(tensor) else tensor

    def unpack(kept: Tensor | _Stored) -> Tensor:
        return kept if isinstance(kept, Tensor) else scratch.read(kept)

    with saved_tensors_hooks(pack, unpack):
        yield


def _worth(model: nn.Module, adapter: nn.Module | None) -> Callable[[Tensor], bool]:
    """Whether a tensor is an activation that is large enough."""
    held = [*model.parameters(), *model.buffers(), *(adapter.parameters() if adapter is not None else ())]
    weights = {tensor.untyped_storage().data_ptr() for tensor in held}
    config = getattr(model, "config", None)
    heads = {getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")}

    def worth(tensor: Tensor) -> bool:
        return (
            tensor.is_floating_point()
            and tensor.numel() >= LEAST_NUMBERS
            and tensor.untyped_storage().data_ptr() not in weights
            and not (tensor.dim() == 3 and tensor.shape[1] in heads)
        )

    return worth
