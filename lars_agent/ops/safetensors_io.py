"""Safetensors files without a second copy of the tensors in memory.

The library's own writer turns every tensor into a byte string first, its reader the whole file. Here what is written
is the tensors' own memory, and what is read is the file's own pages. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["Layout", "TensorFiles", "read_tensors", "tensor_file", "tensor_file_of"]

Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_LENGTH = 8  # bytes that say how long the header is
_ALIGNMENT = 64  # of the first tensor in the file, and so of all whose sizes are multiples of it: for torch's kernels


def tensor_file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file that holds `tensors`, piece by piece, for `lars_agent.files.write_atomically`.

    The tensors must not change until the last piece is taken. Takes float32, float16, bfloat16, int64, int8 and uint8.
    """
    return tensor_file_of({name: (x.dtype, x.shape) for name, x in tensors.items()}, tensors.values())


def tensor_file_of(layout: Layout, tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    """The same of tensors that are made one after another, in the order of `layout`, and need never exist together."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(_LENGTH + len(text)) % _ALIGNMENT)
    yield len(text).to_bytes(_LENGTH, "little") + text
    for tensor in tensors:
        yield tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file, each backed by the file's pages: to be read, never written.

    Raises OSError, or safetensors' SafetensorError for what is no such file.
    """
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class TensorFiles:
    """The tensors of several safetensors files, backed by the files' pages: to be read, never written.

    Each file is mapped once and stays so while one of its tensors is held. Raises OSError, or SafetensorError for what
    is no such file.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._file_of: dict[str, Path] = {}
        self._opened = {path: _opened(path) for path in files}
        for path, opened in self._opened.items():
            self._file_of |= dict.fromkeys(opened.keys(), path)

    @property
    def names(self) -> list[str]:
        """What the files hold."""
        return list(self._file_of)

    def tensor(self, name: str, *, apart: bool = False) -> Tensor:
        """The tensor `name`; no page of it is read before it is used.

        With `apart` it has a mapping of its own, which goes with it: for copying one after another out of files that
        are never to be resident as a whole.
        """
        path = self._file_of[name]
        with _naming(path):
            tensor: Tensor = (_opened(path) if apart else self._opened[path]).get_tensor(name)
        return tensor


def _opened(path: Path) -> Any:
    with _naming(path):
        return safe_open(path, framework="pt")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """The library's errors inside name the file."""
    try:
        yield
    except SafetensorError as error:
        raise SafetensorError(f"{path.name}: {error}") from error
