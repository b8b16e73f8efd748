"""Matrix products with linear layers' weights, by the kernel that is fastest on this machine for a few rows.

In decoding one row at a time, a product takes as long as reading its weights. Quantized weights are half or a quarter
as many bytes, but only a kernel that unpacks them in registers gains from it. torch has such kernels for bfloat16 rows;
their speed depends on the processor, so they are timed once. Many rows (a prompt) are multiplied with unpacked weights,
tile by tile: unpacking takes as long for a thousand rows as for one.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lars_agent.ops.quantized import BLOCK, Bits, QuantizedLinear, QuantizedMatrix, quantize, times

LinearFunction = Callable[[Tensor], Tensor]  # (T, I) to (T, O)
MAX_ROWS_4, MAX_ROWS_8 = 128, 24  # up to which the packed kernels are faster (on two cores with AVX-512)
MULTIPLE = 16  # of outputs, required by the kernel for 4 bits
TIMED_SHAPE = (256, 512)  # outputs and inputs
REPEATS = 5
ALIGNMENT = 64  # bytes; the kernel for 8 bits crashes the process if weights are not aligned


def build_linear(modules: Sequence[nn.Module]) -> LinearFunction:
    """Return a function that computes all of `modules`, linear layers with the same input: (T, O), concatenated."""
    quantized = [module for module in modules if isinstance(module, QuantizedLinear)]
    if len(quantized) == len(modules) and all(_packs_4(module) for module in quantized) and is_faster(4):
        return Int4Linear(quantized)
    functions = [_linear(module) for module in modules]
    return functions[0] if len(functions) == 1 else lambda x: torch.cat([function(x) for function in functions], dim=-1)


class Int8Linear:
    """A layer with int8 weights, used where they are mapped; copied only if they are not aligned."""

    def __init__(self, module: QuantizedLinear) -> None:
        self.module, self.scale = module, module.matrix.scale.flatten()
        packed = module.matrix.packed
        self.packed = packed.clone() if packed.data_ptr() % ALIGNMENT else packed

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output (T, O) for `x` (T, I)."""
        if len(x) > MAX_ROWS_8:
            return _unpacked(self.module, x)
        return _biased(torch.ops.aten._weight_int8pack_mm(x, self.packed, self.scale), self.module.bias)


class Int4Linear:
    """Several layers with int4 weights, repacked together in the format of torch's kernel: a copy of their bytes."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        self.modules = tuple(modules)
        levels = torch.cat([_levels(module.matrix) for module in modules])
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        grid = torch.cat([_grid(module.matrix) for module in modules])
        self.grid = grid.transpose(0, 1).contiguous()  # (I / 32, O, 2)
        biases: list[Tensor] = [
            torch.zeros(m.out_features, dtype=m.dtype) if m.bias is None else m.bias for m in modules
        ]
        self.bias = torch.cat(biases) if any(module.bias is not None for module in modules) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the concatenated outputs (T, O) for `x` (T, I)."""
        if len(x) > MAX_ROWS_4:
            return torch.cat([_unpacked(module, x) for module in self.modules], dim=-1)
        return _biased(torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, BLOCK, self.grid), self.bias)


@cache
def is_faster(bits: Bits) -> bool:
    """Time one row: True if torch's kernel for packed weights is faster on this machine than unpacking them."""
    matrix = quantize(torch.randn(TIMED_SHAPE, generator=torch.Generator().manual_seed(0)), bits)
    module = QuantizedLinear(matrix, None, torch.bfloat16)
    row = torch.ones(1, TIMED_SHAPE[1], dtype=torch.bfloat16)
    try:
        kernel = Int4Linear([module]) if bits == 4 else Int8Linear(module)
        return _seconds(kernel, row) < _seconds(partial(_unpacked, module), row)
    except (AttributeError, RuntimeError):  # not in this release of torch, or for this processor
        return False


@torch.no_grad()
def _seconds(function: LinearFunction, row: Tensor) -> float:
    return min(timeit.repeat(partial(function, row), number=1, repeat=REPEATS))


def _packs_4(module: QuantizedLinear) -> bool:
    matrix = module.matrix
    return matrix.minimum is not None and module.dtype == torch.bfloat16 and matrix.shape[0] % MULTIPLE == 0


def _linear(module: Any) -> LinearFunction:
    """Return the layer's function, without the hooks registered on it."""
    if isinstance(module, QuantizedLinear):
        packs = module.matrix.minimum is None and module.dtype == torch.bfloat16
        return Int8Linear(module) if packs and is_faster(8) else partial(_unpacked, module)
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module.forward


def _unpacked(module: QuantizedLinear, x: Tensor) -> Tensor:
    return _biased(times(module.matrix, x), module.bias)


def _biased(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias)


def _levels(matrix: QuantizedMatrix) -> Tensor:
    """Return the levels, 0 to 15: (O, I) int32."""
    halves = [matrix.packed & 15, matrix.packed >> 4]  # (O, I / 32, 16) each
    return torch.cat(halves, dim=2).flatten(1).int()


def _grid(matrix: QuantizedMatrix) -> Tensor:
    """Return each block's scale and the value of level 8: (O, I / 32, 2) bfloat16."""
    assert matrix.minimum is not None
    middle = matrix.minimum.float() + 8 * matrix.scale.float()
    return torch.cat([matrix.scale, middle.bfloat16()], dim=2)
