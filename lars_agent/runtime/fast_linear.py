"""Matrix products with linear layers' weights, by the kernel that is fastest on this machine for a few rows.

In decoding one row at a time, a product takes as long as reading its weights. Quantized weights are half or a quarter
as many bytes, but only a kernel that unpacks them in registers gains from it. torch has several; their speed depends on
the processor, so they are timed once. Many rows (a prompt) are multiplied with unpacked weights, tile by tile:
unpacking takes as long for a thousand rows as for one.

The kernels round. An output that is a sum of w x over the inputs x differs from the exact one by at most

    2^-8 sum |w x|                     `Bfloat16Linear`, `Int8Linear`: rows and outputs in bfloat16
    2^-8 sum |w x| + 2^-9 sum |m x|    `Int4Linear`: and the middles m of the weights' blocks
    range(x) / 510 sum |w - m|         `DynamicInt4Linear`: rows in 8 bits; in a bfloat16 model 2^-9 |output| more
"""

from __future__ import annotations

import time
import timeit
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
TIMED_SHAPE_16 = (2**14, 512)  # more than a cache holds: whole weights are read from memory, which decides there
REPEATS = 5
ALIGNMENT = 64  # bytes; the kernel for 8 bits crashes the process if weights are not aligned


def build_linear(modules: Sequence[nn.Module]) -> LinearFunction:
    """Return a function that computes all of `modules`, linear layers with the same input: (T, O), concatenated."""
    quantized = [module for module in modules if isinstance(module, QuantizedLinear)]
    packs_4 = len(quantized) == len(modules) and all(_packs_4(module) for module in quantized)
    if packs_4 and (kernel := fastest_kernel(4, quantized[0].dtype)):
        return kernel(quantized)
    functions = [_linear(module) for module in modules]
    return functions[0] if len(functions) == 1 else lambda x: torch.cat([function(x) for function in functions], dim=-1)


def fastest_products(rows: int) -> AbstractContextManager[None]:
    """Return a context: bfloat16 products of `rows` rows take torch's own kernel where that is faster than oneDNN's.

    Of several rows oneDNN's is: it reads the weights once, torch's own once for each row. The choice is a setting of
    the process; what other threads multiply meanwhile becomes slower or faster, not wrong.
    """
    return nullcontext() if rows > 1 or not own_kernel_is_faster() else _without_onednn()


@contextmanager
def _without_onednn() -> Iterator[None]:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


@cache
def own_kernel_is_faster() -> bool:
    """Time a bfloat16 product of one row: True if torch's own kernel is faster than oneDNN's on this machine."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:  # type: ignore[no-untyped-call]
        return False
    weight, row = torch.ones(TIMED_SHAPE_16, dtype=torch.bfloat16), torch.ones(1, TIMED_SHAPE_16[1]).bfloat16()
    product = partial(F.linear, weight=weight)
    theirs = _seconds(product, row)
    with _without_onednn():
        return _seconds(product, row) < theirs


class Bfloat16Linear:
    """A layer with bfloat16 weights in a float32 model: one row is rounded, so that they need not be widened."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        (self.module,) = modules
        self.packed = self.module.matrix.packed

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output (T, O) for `x` (T, I)."""
        if len(x) > 1:
            return _unpacked(self.module, x)
        return _biased(F.linear(x.bfloat16(), self.packed).to(x.dtype), self.module.bias)


class Int8Linear:
    """A layer with int8 weights, used where they are mapped; copied only if they are not aligned."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        (self.module,) = modules
        packed, scale = self.module.matrix.packed, self.module.matrix.scale
        assert scale is not None
        self.scale = scale.flatten()
        self.packed = packed.clone() if packed.data_ptr() % ALIGNMENT else packed

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output (T, O) for `x` (T, I)."""
        if len(x) > MAX_ROWS_8:
            return _unpacked(self.module, x)
        product = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), self.packed, self.scale)
        return _biased(product.to(x.dtype), self.module.bias)


class _Int4(ABC):
    """Several layers with int4 weights, repacked together in the format of a kernel: a copy of their bytes."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        self.modules = tuple(modules)
        biases: list[Tensor] = [
            torch.zeros(m.out_features, dtype=m.dtype) if m.bias is None else m.bias for m in modules
        ]
        self.bias = torch.cat(biases) if any(module.bias is not None for module in modules) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the concatenated outputs (T, O) for `x` (T, I)."""
        if len(x) > MAX_ROWS_4:
            return torch.cat([_unpacked(module, x) for module in self.modules], dim=-1)
        return _biased(self._product(x), self.bias)

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """Return the outputs (T, O) without biases."""


class Int4Linear(_Int4):
    """Rows in bfloat16; torch's kernel for x86."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        super().__init__(modules)
        levels = _levels(modules)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
        grids = [torch.stack(block_grid(module.matrix), dim=2).bfloat16() for module in modules]
        self.grid = torch.cat(grids).transpose(0, 1).contiguous()  # (I / 32, O, 2)

    def _product(self, x: Tensor) -> Tensor:
        rows = x.bfloat16()
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, BLOCK, self.grid)
        return product.to(x.dtype)


class DynamicInt4Linear(_Int4):
    """Rows in 8 bits, each with a scale of its own; torch's kernel for arm64 (KleidiAI), whose weights are symmetric.

    A weight is scale (q - 8) + middle; the blocks' middles are multiplied with the sums of the row's blocks.
    """

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        super().__init__(modules)
        levels = _levels(modules)
        pairs = levels[:, 0::2] | levels[:, 1::2] << 4
        scales, middles = (
            torch.cat(parts) for parts in zip(*(block_grid(module.matrix) for module in modules), strict=True)
        )
        self.shape = (BLOCK, levels.shape[1], len(levels))
        self.middles = middles  # (O, I / 32)
        pack = torch.ops.aten._dyn_quant_pack_4bit_weight
        self.packed = pack(pairs.contiguous(), scales.bfloat16().contiguous(), None, *self.shape)

    def _product(self, x: Tensor) -> Tensor:
        rows = x.float()
        sums = rows.view(len(rows), -1, BLOCK).sum(dim=2)
        product: Tensor = torch.ops.aten._dyn_quant_matmul_4bit(rows, self.packed, *self.shape)
        return product.addmm_(sums, self.middles.T).to(x.dtype)


ONE_BY_ONE: dict[torch.dtype, Bits] = {torch.bfloat16: 16, torch.int8: 8}  # of which each layer is multiplied alone
KERNELS: dict[Bits, tuple[Any, ...]] = {
    16: (Bfloat16Linear,),
    8: (Int8Linear,),
    4: (Int4Linear, DynamicInt4Linear),
}


@cache
def fastest_kernel(bits: Bits, dtype: torch.dtype) -> Callable[[Sequence[QuantizedLinear]], LinearFunction] | None:
    """Time one row in `dtype`: return the kernel for packed weights that is faster on this machine than unpacking them.

    None if no kernel is, or none exists in this release of torch or for this processor.
    """
    shape = TIMED_SHAPE_16 if bits == 16 else TIMED_SHAPE
    matrix = quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), bits)
    module = QuantizedLinear(matrix, None, dtype)
    row = torch.ones(1, shape[1], dtype=dtype)
    best, least = None, _seconds(partial(_unpacked, module), row)
    for kernel in KERNELS[bits]:
        try:
            with fastest_products(1):
                taken = _seconds(kernel([module]), row)
        except (AttributeError, RuntimeError):
            continue
        if taken < least:
            best, least = kernel, taken
    return best


@torch.no_grad()
def _seconds(function: LinearFunction, row: Tensor) -> float:
    """Return the processor time of this thread: that of other programs does not count."""
    return min(timeit.repeat(partial(function, row), timer=time.thread_time, number=1, repeat=REPEATS))


def _packs_4(module: QuantizedLinear) -> bool:
    matrix = module.matrix
    return matrix.minimum is not None and matrix.shape[0] % MULTIPLE == 0


def _linear(module: Any) -> LinearFunction:
    """Return the layer's function, without the hooks registered on it."""
    if isinstance(module, QuantizedLinear):
        bits = ONE_BY_ONE.get(module.matrix.packed.dtype)
        kernel = fastest_kernel(bits, module.dtype) if bits else None
        return kernel([module]) if kernel else partial(_unpacked, module)
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module.forward


def _unpacked(module: QuantizedLinear, x: Tensor) -> Tensor:
    return _biased(times(module.matrix, x), module.bias)


def _biased(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias)


def _levels(modules: Sequence[QuantizedLinear]) -> Tensor:
    """Return the levels of all weights, 0 to 15: (O, I) uint8."""
    packed = torch.cat([module.matrix.packed for module in modules])  # (O, I / 32, 16)
    return torch.cat([packed & 15, packed >> 4], dim=2).flatten(1)


def block_grid(matrix: QuantizedMatrix) -> tuple[Tensor, Tensor]:
    """Return each block's scale and the value of level 8: (O, I / 32) float32 each."""
    assert matrix.scale is not None
    assert matrix.minimum is not None
    scale = matrix.scale.float().flatten(1)
    return scale, matrix.minimum.float().flatten(1) + 8 * scale
