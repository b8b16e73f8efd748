"""Frozen weights in 16, 8 or 4 bits, dequantized a block of rows at a time when they are multiplied.

    16 bits  w = q,               in bfloat16, for processors that compute faster in float32
    8 bits   w = scale q,           q in -127..127, one scale a row
    4 bits   w = scale q + minimum, q in 0..15, one scale and one minimum for each 32 columns (as llama.cpp's Q4_1)

Scales and minima are bfloat16. Products and gradients are exact for the stored weights, which in 8 and 4 bits differ
from the original ones by at most half a step: 1/254 of a row's largest, or 1/30 of a block's range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Bits = Literal[4, 8, 16]
BLOCK = 32  # columns that share a scale in 4 bits
DEQUANTIZED = 2**20  # weights that are dequantized at once


@dataclass(frozen=True)
class QuantizedMatrix:
    """A frozen (O, I) matrix.

    `packed`: (O, I) bfloat16 or int8, or (O, I / 32, 16) uint8 whose low halves are the first 16 columns of a block.
    `scale` (not in 16 bits) and `minimum` (in 4): (O, 1), or (O, I / 32, 1), bfloat16.
    """

    packed: Tensor
    scale: Tensor | None = None
    minimum: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows = self.packed.shape[0]
        return rows, self.packed[:1].numel() * (1 if self.minimum is None else 2)

    def rows(self, index: slice | Tensor, dtype: torch.dtype, buffer: _Buffer | None = None) -> Tensor:
        """Return the dequantized rows (N, I) of `index`, a slice or (N,) numbers; in `buffer` if given."""
        packed = self.packed[index]
        buffer = buffer or _Buffer(packed, dtype)
        out = buffer.numbers[: len(packed)]
        if self.scale is None:
            return out.copy_(packed)
        scale = self.scale[index]
        if self.minimum is None:
            return out.copy_(packed).mul_(scale)
        halves = buffer.halves[: len(packed)]
        blocks = out.view(*packed.shape[:2], 2, BLOCK // 2)
        blocks[:, :, 0] = torch.bitwise_and(packed, 15, out=halves)
        blocks[:, :, 1] = torch.bitwise_right_shift(packed, 4, out=halves)
        blocks = blocks.flatten(2)  # (N, I / 32, 32)
        torch.addcmul(self.minimum[index].to(dtype), blocks, scale.to(dtype), out=blocks)
        return out

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of dequantized rows and their slice; each block is valid until the next one."""
        count, width = self.shape
        step = max(1, DEQUANTIZED // width)
        buffer = _Buffer(self.packed[:step], dtype)
        for start in range(0, count, step):
            block = slice(start, min(start + step, count))
            yield block, self.rows(block, dtype, buffer)


class _Buffer:
    """Output buffer for dequantized rows like `packed`, allocated once: new pages cost more than the arithmetic."""

    def __init__(self, packed: Tensor, dtype: torch.dtype) -> None:
        is_halved = packed.dtype == torch.uint8
        width = packed[:1].numel() * (1 + is_halved)
        self.numbers = torch.empty(len(packed), width, dtype=dtype, device=packed.device)
        self.halves = torch.empty_like(packed) if is_halved else packed


def quantize(weight: Tensor, bits: Bits) -> QuantizedMatrix:
    """Quantize `weight` (O, I) to `bits`, block by block; in 4 bits I must be a multiple of 32."""
    into = {16: _in_16_bits, 8: _in_8_bits, 4: _in_4_bits}[bits]
    stored = {
        name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in stored_shapes(weight.shape, bits).items()
    }
    step = max(1, DEQUANTIZED // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        for name, values in into(weight[rows].float()).items():
            stored[name][rows] = values
    return QuantizedMatrix(**stored)


def stored_shapes(shape: Sequence[int], bits: Bits) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each tensor of a quantized matrix of `shape` (O, I)."""
    rows, columns = shape
    if bits == 16:
        return {"packed": (torch.bfloat16, (rows, columns))}
    if bits == 8:
        return {"packed": (torch.int8, (rows, columns)), "scale": (torch.bfloat16, (rows, 1))}
    blocks = (rows, columns // BLOCK, 1)
    return {
        "packed": (torch.uint8, (*blocks[:2], BLOCK // 2)),
        "scale": (torch.bfloat16, blocks),
        "minimum": (torch.bfloat16, blocks),
    }


def quantized_bytes(shape: Sequence[int], bits: Bits) -> int:
    """Return the bytes of a quantized matrix of `shape` (O, I)."""
    return sum(dtype.itemsize * math.prod(part) for dtype, part in stored_shapes(shape, bits).values())


def times(weight: Tensor | QuantizedMatrix, x: Tensor) -> Tensor:
    """Return x W^T (..., O) for `x` (..., I); without autograd if W is quantized."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    for block, rows in weight.blocks(x.dtype):
        out[..., block] = F.linear(x, rows)
    return out


def times_transposed(weight: Tensor | QuantizedMatrix, error: Tensor) -> Tensor:
    """Return error W (..., I) for `error` (..., O); without autograd if W is quantized."""
    if isinstance(weight, Tensor):
        return error.to(weight.dtype) @ weight
    out = torch.zeros(*error.shape[:-1], weight.shape[1], dtype=torch.float32, device=error.device)
    for block, rows in weight.blocks(error.dtype):
        out += error[..., block] @ rows
    return out.to(error.dtype)


class Quantized(nn.Module):
    """Mixin for frozen modules with a quantized weight."""

    def _init_quantized(self, matrix: QuantizedMatrix, dtype: torch.dtype) -> None:
        """Initialize the module in place of its class's constructor, which would allocate a weight."""
        nn.Module.__init__(self)
        self.dtype = dtype
        for name, tensor in parts(matrix).items():
            self.register_buffer(name, tensor)

    @property
    def matrix(self) -> QuantizedMatrix:
        """The quantized weight."""
        return QuantizedMatrix(**self._buffers)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The whole dequantized weight (O, I)."""
        return self.matrix.rows(slice(None), self.dtype)


class QuantizedLinear(Quantized, nn.Linear):  # type: ignore[override]  # its weight is read-only
    """An `nn.Linear` with a quantized weight."""

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._init_quantized(matrix, dtype)
        self.out_features, self.in_features = matrix.shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., O) for `input` (..., I)."""
        product: Tensor = _Product.apply(input, self.matrix)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias


class QuantizedEmbedding(Quantized, nn.Embedding):  # type: ignore[override]
    """An `nn.Embedding` with a quantized weight."""

    def __init__(self, matrix: QuantizedMatrix, padding_idx: int | None, dtype: torch.dtype) -> None:
        self._init_quantized(matrix, dtype)
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows (..., H) of the ids `input` (...)."""
        return self.matrix.rows(input.flatten(), self.dtype).view(*input.shape, -1)


class _Product(torch.autograd.Function):
    """x W^T, saving only a reference to W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: QuantizedMatrix) -> Tensor:
        ctx.matrix = matrix
        return times(matrix, x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return times_transposed(ctx.matrix, upstream[0]), None


def parts(matrix: QuantizedMatrix) -> dict[str, Tensor]:
    """Return the tensors of `matrix` by name."""
    return {name: tensor for name, tensor in vars(matrix).items() if tensor is not None}


def _in_16_bits(weight: Tensor) -> dict[str, Tensor]:
    return {"packed": weight.bfloat16()}


def _in_8_bits(weight: Tensor) -> dict[str, Tensor]:
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).bfloat16()
    return {"packed": _levels(weight, scale, -127, 127), "scale": scale}


def _in_4_bits(weight: Tensor) -> dict[str, Tensor]:
    blocks = weight.view(len(weight), -1, BLOCK)
    minimum = blocks.amin(dim=2, keepdim=True).bfloat16()
    scale = ((blocks.amax(dim=2, keepdim=True) - minimum.float()) / 15).bfloat16()
    low, high = _levels(blocks - minimum.float(), scale, 0, 15).to(torch.uint8).chunk(2, dim=2)
    return {"packed": low | (high << 4), "scale": scale, "minimum": minimum}


def _levels(values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Round `values` to multiples of `scale`; 0 where the scale is 0."""
    steps = scale.float()
    return (values / steps.where(steps > 0, torch.ones_like(steps))).round_().clamp_(low, high)
