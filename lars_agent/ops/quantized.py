"""Frozen weights in 8 or 4 bits, never whole in memory: rows of them become numbers when they are multiplied.

    8 bits   w = scale q,           q in -127..127, one scale a row
    4 bits   w = scale q + minimum, q in 0..15, one scale and one minimum for each 32 columns (as llama.cpp's Q4_1)

Scales and minima are bfloat16. Products are exact for the weights as they are stored, and so is the gradient that goes
back through them; they differ from the weights before by half a step at most: 1/254 of a row's largest, or 1/30 of a
block's range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BLOCK",
    "Bits",
    "Quantized",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedMatrix",
    "quantize",
    "quantized_bytes",
    "stored_shapes",
    "times",
    "times_transposed",
]

Bits = Literal[4, 8]
BLOCK = 32  # columns that share a scale in 4 bits
UNPACKED = 2**20  # weights that are numbers at once


@dataclass(frozen=True)
class QuantizedMatrix:
    """A frozen (O, I) matrix.

    `packed`: (O, I) int8, or (O, I / 32, 16) uint8 whose low halves are the first 16 columns of a block. `scale` and
    `minimum`: (O, 1), or (O, I / 32, 1), bfloat16.
    """

    packed: Tensor
    scale: Tensor
    minimum: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows = self.packed.shape[0]
        return rows, self.packed[:1].numel() * (1 if self.minimum is None else 2)

    def rows(self, which: slice | Tensor, dtype: torch.dtype, room: _Room | None = None) -> Tensor:
        """(N, I): the rows that `which` means, a slice or (N,) numbers, as numbers; in `room` where there is one."""
        packed, scale = self.packed[which], self.scale[which]
        room = room or _Room(packed, dtype)
        out = room.numbers[: len(packed)]
        if self.minimum is None:
            return out.copy_(packed).mul_(scale)
        halves = room.halves[: len(packed)]
        blocks = out.view(*packed.shape[:2], 2, BLOCK // 2)
        blocks[:, :, 0] = torch.bitwise_and(packed, 15, out=halves)
        blocks[:, :, 1] = torch.bitwise_right_shift(packed, 4, out=halves)
        blocks = blocks.flatten(2)  # (N, I / 32, 32)
        torch.addcmul(self.minimum[which].to(dtype), blocks, scale.to(dtype), out=blocks)
        return out

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a piece at a time: which they are, and they as numbers, until the next piece takes their place."""
        count, width = self.shape
        step = max(1, UNPACKED // width)
        room = _Room(self.packed[:step], dtype)
        for start in range(0, count, step):
            piece = slice(start, min(start + step, count))
            yield piece, self.rows(piece, dtype, room)


class _Room:
    """Where rows like `packed` become numbers: made once, because memory that is used anew costs more than the sums."""

    def __init__(self, packed: Tensor, dtype: torch.dtype) -> None:
        width = packed[:1].numel() * (1 if packed.dtype == torch.int8 else 2)
        self.numbers = torch.empty(len(packed), width, dtype=dtype, device=packed.device)
        self.halves = torch.empty_like(packed)


def quantize(weight: Tensor, bits: Bits) -> QuantizedMatrix:
    """The matrix of `bits` nearest to `weight` (O, I), made piece by piece; in 4 bits I must be a multiple of 32."""
    stored = {
        name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in stored_shapes(weight.shape, bits).items()
    }
    step = max(1, UNPACKED // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        for name, values in (_in_8_bits if bits == 8 else _in_4_bits)(weight[rows].float()).items():
            stored[name][rows] = values
    return QuantizedMatrix(**stored)


def stored_shapes(shape: Sequence[int], bits: Bits) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """What a quantised matrix of `shape` (O, I) is kept as: dtype and shape of each part."""
    rows, columns = shape
    if bits == 8:
        return {"packed": (torch.int8, (rows, columns)), "scale": (torch.bfloat16, (rows, 1))}
    blocks = (rows, columns // BLOCK, 1)
    return {
        "packed": (torch.uint8, (*blocks[:2], BLOCK // 2)),
        "scale": (torch.bfloat16, blocks),
        "minimum": (torch.bfloat16, blocks),
    }


def quantized_bytes(shape: Sequence[int], bits: Bits) -> int:
    """Bytes of a quantised matrix of `shape` (O, I)."""
    return sum(dtype.itemsize * math.prod(part) for dtype, part in stored_shapes(shape, bits).values())


def times(weight: Tensor | QuantizedMatrix, x: Tensor) -> Tensor:
    """x W^T, (..., O), of `x` (..., I); without autograd where W is quantised."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    for piece, rows in weight.pieces(x.dtype):
        out[..., piece] = F.linear(x, rows)
    return out


def times_transposed(weight: Tensor | QuantizedMatrix, error: Tensor) -> Tensor:
    """error W, (..., I), of `error` (..., O); without autograd where W is quantised."""
    if isinstance(weight, Tensor):
        return error.to(weight.dtype) @ weight
    out = torch.zeros(*error.shape[:-1], weight.shape[1], dtype=torch.float32, device=error.device)
    for piece, rows in weight.pieces(error.dtype):
        out += error[..., piece] @ rows
    return out.to(error.dtype)


class Quantized(nn.Module):
    """A frozen module whose weight is a quantised matrix; its kind is said by the class it is mixed into."""

    def _hold(self, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
        """What a constructor does in its kind's place, which would make a weight of its own."""
        nn.Module.__init__(self)
        self.dtype = dtype
        for name, tensor in parts(matrix).items():
            self.register_buffer(name, tensor)

    @property
    def matrix(self) -> QuantizedMatrix:
        """The weight as it is stored."""
        return QuantizedMatrix(**self._buffers)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """(O, I): the weight as numbers, made whole for whoever asks."""
        return self.matrix.rows(slice(None), self.dtype)


class QuantizedLinear(Quantized, nn.Linear):  # type: ignore[override]  # its weight is read-only
    """A linear layer; everybody else sees an `nn.Linear`."""

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._hold(matrix, dtype)
        self.out_features, self.in_features = matrix.shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:
        """(..., O) of `input` (..., I)."""
        product: Tensor = _Product.apply(input, self.matrix)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class QuantizedEmbedding(Quantized, nn.Embedding):  # type: ignore[override]
    """An embedding; everybody else sees an `nn.Embedding`."""

    def __init__(self, matrix: QuantizedMatrix, padding_idx: int | None, dtype: torch.dtype) -> None:
        self._hold(matrix, dtype)
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx

    def forward(self, input: Tensor) -> Tensor:
        """(..., H) of the row numbers `input` (...)."""
        return self.matrix.rows(input.flatten(), self.dtype).view(*input.shape, -1)


class _Product(torch.autograd.Function):
    """x W^T; nothing is saved but where W lies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: QuantizedMatrix) -> Tensor:
        ctx.matrix = matrix
        return times(matrix, x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return times_transposed(ctx.matrix, upstream[0]), None


def parts(matrix: QuantizedMatrix) -> dict[str, Tensor]:
    """The tensors of `matrix` by name."""
    return {name: tensor for name, tensor in vars(matrix).items() if tensor is not None}


def _in_8_bits(weight: Tensor) -> dict[str, Tensor]:
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).bfloat16()
    return {"packed": _levels(weight, scale, -127, 127), "scale": scale}


def _in_4_bits(weight: Tensor) -> dict[str, Tensor]:
    blocks = weight.view(len(weight), -1, BLOCK)
    minimum = blocks.amin(dim=2, keepdim=True).bfloat16()
    scale = ((blocks.amax(dim=2, keepdim=True) - minimum.float()) / 15).bfloat16()
    low, high = _levels(blocks - minimum.float(), scale, 0, 15).to(torch.uint8).chunk(2, dim=2)
    return {"packed": low | (high << 4), "scale": scale, "minimum": minimum}


def _levels(values: Tensor, scale: Tensor, least: int, most: int) -> Tensor:
    """`values` in whole steps of `scale`; 0 where that is 0."""
    steps = scale.float()
    return (values / steps.where(steps > 0, torch.ones_like(steps))).round_().clamp_(least, most)
