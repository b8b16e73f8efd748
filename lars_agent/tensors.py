"""Safetensors files without a second copy of the tensors in memory.

The library's own writer turns every tensor into a byte string first, its reader the whole file. Here what is written
is the tensors' own memory, and what is read is the file's own pages. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

__all__ = ["read_tensors", "tensor_file"]

_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_ALIGNMENT = 8


def tensor_file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file that holds `tensors`, piece by piece, for `lars_agent.files.write_atomically`.

    The tensors must not change until the last piece is taken. Takes float32, bfloat16, int64, int8 and uint8.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file, each backed by the file's pages: to be read, never written.

    Raises OSError, or safetensors' SafetensorError for what is no such file.
    """
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
