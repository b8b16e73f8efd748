"""The product that the endpoint takes for int4 weights on this processor, against the unpacked one it stands for."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lars_agent.errors import LarsError
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_model
from lars_agent.ops.quantized import BLOCK, times
from lars_agent.runtime.fast_decoder import FastDecoder, KVCache, SequenceChunk, build_fast_decoder
from lars_agent.runtime.fast_linear import DynamicInt4Linear, Int4Linear, block_grid, fastest_kernel

PROMPT, REPLY = 24, 8  # tokens


class Checked:
    """A product of the decoder, compared with the unpacked one wherever it is taken for one row."""

    def __init__(self, product: Int4Linear | DynamicInt4Linear) -> None:
        self.product, self.worst = product, 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Its outputs (T, O) for `x` (T, I)."""
        made = self.product(x)
        if len(x) == 1:
            error = (made.float() - self.unpacked(x.float())).abs()
            self.worst = max(self.worst, float((error / self.bound(x.float())).max()))
        return made

    def unpacked(self, x: Tensor) -> Tensor:
        """The outputs by weights unpacked."""
        parts = [times(one.matrix, x) + (0 if one.bias is None else one.bias) for one in self.product.modules]
        return torch.cat(parts, dim=-1)

    def bound(self, x: Tensor) -> Tensor:
        """How far each output (1, O) for `x` (1, I) may be off, see `lars_agent.runtime.fast_linear`."""
        bounds = []
        for module in self.product.modules:
            weight = module.matrix.rows(slice(None), torch.float32)
            _, middles = block_grid(module.matrix)
            middle = middles.repeat_interleave(BLOCK, dim=1)
            if isinstance(self.product, DynamicInt4Linear):
                rounding = 2**-9 * self.unpacked(x).abs().max() if module.dtype == torch.bfloat16 else 0.0
                bounds.append((weight - middle).abs().sum(dim=1) * (x.max() - x.min()) / 510 + rounding)
            else:
                bounds.append(2**-8 * (weight * x).abs().sum(dim=1) + 2**-9 * (middle * x).abs().sum(dim=1))
        return torch.cat(bounds)[None]


def int4_path(model: str) -> dict[str, Any]:
    """The kernel that is chosen, the largest share of its bound that any product of a reply used, and equal tokens.

    Raises LarsError where there is none, or no decoder that takes it.
    """
    torch.set_num_threads(1)
    opened = open_model(Path(model), *precision("int4", Path(model)))
    decoder = build_fast_decoder(opened.model)
    kernel = fastest_kernel(4, opened.model.dtype)
    if decoder is None or kernel is None:
        raise LarsError(f"{model} in int4 is decoded without packed products here")
    checks = [
        Checked(one)
        for layer in decoder.layers
        for one in layer.projections
        if isinstance(one, Int4Linear | DynamicInt4Linear)
    ]
    _replace(decoder, {id(check.product): check for check in checks})
    made = _reply(decoder)
    _replace(decoder, {id(check): check.unpacked for check in checks})
    plain = _reply(decoder)
    return {
        "machine": {"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "kernel": kernel.__name__,  # type: ignore[attr-defined]
        "dtype": str(opened.model.dtype),
        "products": len(checks) * REPLY,
        "worst": max(check.worst for check in checks),
        "equal_tokens": sum(one == other for one, other in zip(made, plain, strict=True)) / REPLY,
    }


def _replace(decoder: FastDecoder, by: dict[int, Callable[[Tensor], Tensor]]) -> None:
    for layer in decoder.layers:
        layer.projections = [by.get(id(one), one) for one in layer.projections]


def _reply(decoder: FastDecoder) -> list[int]:
    """The likeliest tokens after some prompt."""
    ids, kv, chosen = torch.arange(PROMPT) * 7919 % decoder.vocabulary, KVCache(decoder, PROMPT + REPLY), list[int]()
    for _ in range(REPLY):
        hidden = decoder.run(ids, [SequenceChunk(kv, len(ids))])
        ids = decoder.logits(hidden[-1:]).argmax(dim=1)
        chosen.append(int(ids))
    return chosen
