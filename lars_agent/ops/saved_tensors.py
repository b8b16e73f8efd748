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
MIN_NUMBERS = 2**15  # of a tensor worth compressing
MASKED = 1e30  # larger than any activation: an additive attention mask


def saved_activations(
    model: nn.Module, adapter: nn.Module | None, saved: Saved, folder: Path | None = None
) -> AbstractContextManager[Any]:
    """Save the activations of `model` under `adapter` as `saved` says inside the block.

    The file of `disk` is in `folder`, by default that of temporary files. Raises DiskFull.
    """
    if saved == "whole":
        return nullcontext()
    selected = _selector(model, adapter)
    return _int8(selected) if saved == "int8" else _on_disk(selected, folder or Path(tempfile.gettempdir()))


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
def _int8(selected: Callable[[Tensor], bool]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor | _Rounded:
        if not selected(tensor):
            return tensor
        scale = tensor.abs().amax(dim=-1, keepdim=True).float() / 127  # one a token
        if not (scale < MASKED).all():
            return tensor
        steps = scale.where(scale > 0, torch.ones_like(scale)).to(tensor.dtype)
        return _Rounded((tensor / steps).round_().clamp_(-127, 127).to(torch.int8), steps, tensor.dtype)

    def unpack(stored: Tensor | _Rounded) -> Tensor:
        return stored if isinstance(stored, Tensor) else stored.levels.to(stored.dtype).mul_(stored.scale)

    with saved_tensors_hooks(pack, unpack):
        yield


class _Scratch:
    """An unlinked file, closed with this object."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.end = folder, 0
        with raise_disk_full(folder):
            self._descriptor, name = tempfile.mkstemp(prefix="activations-", dir=folder)
            Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, tensor: Tensor) -> _Stored:
        """Write the tensor to the file."""
        offset, content = self.end, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        with raise_disk_full(self.folder):
            while content:
                written = os.pwrite(self._descriptor, content, self.end)
                content, self.end = content[written:], self.end + written
        return _Stored(offset, tensor.shape, tensor.dtype)

    def read(self, stored: _Stored) -> Tensor:
        """Read a tensor back."""
        content = bytearray(os.pread(self._descriptor, stored.nbytes, stored.offset))
        assert len(content) == stored.nbytes
        return torch.frombuffer(content, dtype=stored.dtype).view(stored.shape)


@contextmanager
def _on_disk(selected: Callable[[Tensor], bool], folder: Path) -> Iterator[None]:
    scratch = _Scratch(folder)

    def pack(tensor: Tensor) -> Tensor | _Stored:
        return scratch.append(tensor) if selected(tensor) else tensor

    def unpack(stored: Tensor | _Stored) -> Tensor:
        return stored if isinstance(stored, Tensor) else scratch.read(stored)

    with saved_tensors_hooks(pack, unpack):
        yield


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
