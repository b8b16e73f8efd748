"""Products with packed weights against the unpacked ones, for few rows and for many."""

from __future__ import annotations

import pytest
import torch

from lars_agent.ops.quantized import QuantizedLinear, quantize, times
from lars_agent.runtime import fast_linear as linear
from lars_agent.runtime.fast_linear import build_linear


@pytest.mark.parametrize("rows", [1, 3, 20, 100, 200])
@pytest.mark.parametrize("bits", [4, 8])
@torch.no_grad()
def test_packed_products_are_the_unpacked_ones_and_alike_for_every_number_of_rows(monkeypatch, bits, rows):
    monkeypatch.setattr(linear, "is_faster", lambda bits: True)
    dice = torch.Generator().manual_seed(0)
    modules = [
        QuantizedLinear(quantize(torch.randn(size, 64, generator=dice), bits), bias, torch.bfloat16)
        for size, bias in ((32, None), (48, torch.randn(48, generator=dice).bfloat16()))
    ]
    x = torch.randn(rows, 64, generator=dice).bfloat16()
    made = build_linear(modules)(x)
    plain = [times(module.matrix, x) + (0 if module.bias is None else module.bias) for module in modules]
    torch.testing.assert_close(made, torch.cat(plain, dim=1), rtol=0.02, atol=0.1)
    if rows <= 3:
        assert torch.equal(made, torch.cat([build_linear(modules)(row) for row in x.split(1)]))
