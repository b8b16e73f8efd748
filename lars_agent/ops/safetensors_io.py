"""Read and write safetensors files without copying tensors: memory is written directly, files are mapped.

Format: https://github.com/huggingface/safetensors
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

Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_LENGTH = 8  # bytes of the header's length
_ALIGNMENT = 64  # of the first tensor, and so of all tensors whose sizes are multiples of it; for torch's kernels


def tensor_file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the content of a safetensors file with `tensors`, for `lars_agent.files.write_atomically`.

    The tensors must not change meanwhile. Takes float64, 32 and 16, bfloat16, int64, 32 and 8, uint8 and bool.
    """
    return tensor_file_of({name: (x.dtype, x.shape) for name, x in tensors.items()}, tensors.values())


def tensor_file_of(layout: Layout, tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the content of a file with `tensors` that are made one by one in the order of `layout`."""
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
    """Return the memory-mapped, read-only tensors of a file. Raises as `TensorFiles` does."""
    files = TensorFiles([path])
    return {name: files.tensor(name) for name in files.names}


class TensorFiles:
    """Memory-mapped, read-only tensors of several safetensors files.

    A file stays mapped while one of its tensors exists. Raises OSError, or SafetensorError for an invalid file.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._file_of: dict[str, Path] = {}
        self._opened = {path: _opened(path) for path in files}
        for path, opened in self._opened.items():
            self._file_of |= dict.fromkeys(opened.keys(), path)

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._file_of)

    def tensor(self, name: str, *, apart: bool = False) -> Tensor:
        """Return the tensor `name`, whose pages are read on first use.

        With `apart` it has a mapping of its own, which is unmapped with it: for converting files tensor by tensor
        without the whole file becoming resident.
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
    """Add the file's name to errors of the library."""
    try:
        yield
    except SafetensorError as error:
        raise SafetensorError(f"{path.name}: {error}") from error
