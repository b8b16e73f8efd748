"""Products with the weights of linear layers, by the way that is fastest here for a few rows.

A reply is made one row at a time, and then a product takes as long as its weights take to be read. Quantised weights
are half or a quarter as many bytes, but only for a kernel that unpacks them in registers. torch has such kernels for
bfloat16 rows; how good they are depends on the processor, so they are timed once. Many rows (a prompt) are multiplied
with unpacked weights, piece by piece: unpacking takes as long for a thousand rows as for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lars_agent.ops.quantized import BLOCK, Bits, QuantizedLinear, QuantizedMatrix, quantize, times

__all__ = ["Product", "product_of"]

Product = Callable[[Tensor], Tensor]  # (T, I) to (T, O)
FEW_4, FEW_8 = 128, 24  # rows, up to which the packed kernels are the faster way (on two cores with AVX-512)
MULTIPLE = 16  # of outputs, that the kernel for 4 bits wants
TRIED = (256, 512)  # outputs and inputs of the layer that is timed
REPEATS = 5
ALIGNED = 64  # bytes; where weights are not, the kernel for 8 bits ends the process


def product_of(modules: Sequence[nn.Module]) -> Product:
    """What all of `modules`, linear layers of the same input, make of it: (T, O), their outputs side by side."""
    quantized = [module for module in modules if isinstance(module, QuantizedLinear)]
    if len(quantized) < len(modules):
        return Joined([_plain(module) for module in modules])
    if all(_packs_4(module) for module in quantized) and is_faster(4):
        return Packed4(quantized)
    return Joined(
        [Packed8(module) if _packs_8(module) and is_faster(8) else _unpacking(module) for module in quantized]
    )


class Joined:
    """Several products of the same rows, side by side."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = tuple(products)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, O) of (T, I)."""
        outs = [product(x) for product in self.products]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


class Packed8:
    """int8 weights, read where they are mapped: nothing is copied where they lie well for the kernel."""

    def __init__(self, module: QuantizedLinear) -> None:
        self.module, self.scale = module, module.matrix.scale.flatten()
        packed = module.matrix.packed
        self.packed = packed.clone() if packed.data_ptr() % ALIGNED else packed

    def __call__(self, x: Tensor) -> Tensor:
        """(T, O) of (T, I)."""
        module = self.module
        if len(x) > FEW_8:
            return _biased(times(module.matrix, x), module.bias)
        return _biased(torch.ops.aten._weight_int8pack_mm(x, self.packed, self.scale), module.bias)


class Packed4:
    """int4 weights of several layers, packed anew in one piece as torch's kernel reads them: a copy of their bytes."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        self.modules = tuple(modules)
        levels = torch.cat([_levels(module.matrix) for module in modules])
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        grids = [torch.cat([_grid(module.matrix) for module in modules])]
        self.grid = torch.cat(grids).transpose(0, 1).contiguous()  # (I / 32, O, 2)
        biases = [module.bias for module in modules]
        zero = [torch.zeros(module.out_features, dtype=module.dtype) for module in modules]
        self.bias = (
            None
            if all(bias is None for bias in biases)
            else torch.cat([none if bias is None else bias for bias, none in zip(biases, zero, strict=True)])
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(T, O) of (T, I)."""
        if len(x) > FEW_4:
            return torch.cat([_biased(times(module.matrix, x), module.bias) for module in self.modules], dim=-1)
        return _biased(torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, BLOCK, self.grid), self.bias)


@cache
def is_faster(bits: Bits) -> bool:
    """Whether torch's kernel for weights in so many bits is, for one row, faster here than unpacking them."""
    matrix = quantize(torch.randn(TRIED, generator=torch.Generator().manual_seed(0)), bits)
    module = QuantizedLinear(matrix, None, torch.bfloat16)
    row = torch.ones(1, TRIED[1], dtype=torch.bfloat16)
    try:
        kernel: Product = Packed4([module]) if bits == 4 else Packed8(module)
        return _seconds(kernel, row) < _seconds(_unpacking(module), row)
    except (AttributeError, RuntimeError):  # another release of torch, another processor
        return False


@torch.no_grad()
def _seconds(product: Product, row: Tensor) -> float:
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        product(row)
        found.append(time.perf_counter() - started)
    return min(found)


def _packs_4(module: QuantizedLinear) -> bool:
    matrix = module.matrix
    return matrix.minimum is not None and module.dtype == torch.bfloat16 and matrix.shape[0] % MULTIPLE == 0


def _packs_8(module: QuantizedLinear) -> bool:
    return module.matrix.minimum is None and module.dtype == torch.bfloat16


def _plain(module: Any) -> Product:
    """The layer, without the hooks that hang on it."""
    if type(module) is nn.Linear:
        return lambda x: F.linear(x, module.weight, module.bias)
    return _unpacking(module) if isinstance(module, QuantizedLinear) else module.forward


def _unpacking(module: QuantizedLinear) -> Product:
    return lambda x: _biased(times(module.matrix, x), module.bias)


def _biased(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias)


def _levels(matrix: QuantizedMatrix) -> Tensor:
    """(O, I) int32: the levels 0 to 15, column by column."""
    halves = [matrix.packed & 15, matrix.packed >> 4]  # (O, I / 32, 16) each
    return torch.cat(halves, dim=2).flatten(1).int()


def _grid(matrix: QuantizedMatrix) -> Tensor:
    """(O, I / 32, 2) bfloat16: the scale, and what level 8 means."""
    assert matrix.minimum is not None
    middle = matrix.minimum.float() + 8 * matrix.scale.float()
    return torch.cat([matrix.scale, middle.bfloat16()], dim=2)
