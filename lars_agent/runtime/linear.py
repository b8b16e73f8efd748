"""Products with the weights of linear layers, by the kernel that is fastest here for a few rows.

A reply is made one row at a time, and then a product takes as long as its weights take to be read. Quantised weights
are half or a quarter as many bytes, but only for a kernel that unpacks them in registers: torch has such kernels for
bfloat16 rows on x86 and ARM. Many rows (a prompt) are multiplied piece by piece with unpacked weights instead, which is
faster from some tens of rows on; where there is no kernel, few rows are too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lars_agent.memory.quantized import QuantizedLinear

__all__ = ["Product", "product_of"]

Product = Callable[[Tensor], Tensor]  # (T, I) to (T, O)
FEW = 16  # rows, up to which the packed kernels are the faster way

_times_8 = torch.ops.aten._weight_int8pack_mm


def product_of(modules: Sequence[nn.Module]) -> Product:
    """What all of `modules`, linear layers of the same input, make of it: (T, O), their outputs side by side."""
    if all(isinstance(module, QuantizedLinear) and module.dtype == torch.bfloat16 for module in modules):
        if all(module.matrix.minimum is None for module in modules):  # type: ignore[union-attr, operator]
            return Packed8(modules)  # type: ignore[arg-type]
    return Modules(modules)


class Modules:
    """The layers as they are."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = tuple(modules)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, O) of (T, I)."""
        outs = [module(x) for module in self.modules]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


class Packed8(Modules):
    """int8 weights, read where they are mapped: nothing is copied."""

    def __init__(self, modules: Sequence[QuantizedLinear]) -> None:
        super().__init__(modules)
        self.parts = [(module.packed, module.scale.flatten(), module.bias) for module in modules]  # type: ignore[operator]

    def __call__(self, x: Tensor) -> Tensor:
        """(T, O) of (T, I)."""
        if len(x) > FEW:
            return super().__call__(x)
        outs = []
        for packed, scale, bias in self.parts:
            out = _times_8(x, packed, scale)
            outs.append(out if bias is None else out + bias)
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
