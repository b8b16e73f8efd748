"""Products with packed weights against the unpacked ones, for few rows and for many."""

from __future__ import annotations

import pytest
import torch

from bench.serve.int4_path import Checked
from lars_agent.ops.quantized import QuantizedLinear, quantize, times
from lars_agent.runtime import fast_linear as linear
from lars_agent.runtime.fast_linear import (
    KERNELS,
    Bfloat16Linear,
    DynamicInt4Linear,
    Int4Linear,
    Int8Linear,
    build_linear,
    fastest_kernel,
    fastest_products,
    own_kernel_is_faster,
)

BITS = {Bfloat16Linear: 16, Int8Linear: 8, Int4Linear: 4, DynamicInt4Linear: 4}
DTYPES = [torch.bfloat16, torch.float32]


def linears(bits, dtype, dice):
    """Two layers with the same 64 inputs, the second one with a bias."""
    return [
        QuantizedLinear(quantize(torch.randn(size, 64, generator=dice), bits), bias, dtype)
        for size, bias in ((32, None), (48, torch.randn(48, generator=dice).to(dtype)))
    ]


def unpacked(modules, x):
    plain = [times(module.matrix, x) + (0 if module.bias is None else module.bias) for module in modules]
    return torch.cat(plain, dim=1)


@pytest.mark.parametrize("rows", [1, 3, 20, 100, 200])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", BITS)
@torch.no_grad()
def test_packed_products_are_the_unpacked_ones_and_alike_for_every_number_of_rows(monkeypatch, kernel, dtype, rows):
    monkeypatch.setattr(linear, "fastest_kernel", lambda bits, dtype: kernel)
    dice = torch.Generator().manual_seed(0)
    modules = linears(BITS[kernel], dtype, dice)
    x = torch.randn(rows, 64, generator=dice).to(dtype)
    made = build_linear(modules)(x)
    assert made.dtype == dtype
    atol = 0.3 if kernel is DynamicInt4Linear else 0.15
    torch.testing.assert_close(made, unpacked(modules, x), rtol=0.02, atol=atol)
    if rows <= 3 and kernel is not Bfloat16Linear:  # where one row is rounded, and several are not
        assert torch.equal(made, torch.cat([build_linear(modules)(row) for row in x.split(1)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [Int4Linear, DynamicInt4Linear])
@torch.no_grad()
def test_the_rounding_of_4_bits_is_within_the_stated_bound(kernel, dtype):
    dice = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 128, generator=dice) + 3 * torch.randn(64, 1, generator=dice)  # blocks far from zero
    checked = Checked(kernel([QuantizedLinear(quantize(weight, 4), None, dtype)]))
    for row in torch.randn(20, 128, generator=dice).to(dtype).split(1):
        checked(row)
    assert 0 < checked.worst <= 1


@pytest.mark.parametrize("kernel", [Bfloat16Linear, Int8Linear])
@torch.no_grad()
def test_the_rounding_of_float32_rows_is_within_the_stated_bound(kernel):
    dice = torch.Generator().manual_seed(1)
    weight, x = torch.randn(64, 128, generator=dice), torch.randn(1, 128, generator=dice)
    module = QuantizedLinear(quantize(weight, BITS[kernel]), None, torch.float32)
    error = (kernel([module])(x) - times(module.matrix, x)).abs()
    assert (error <= (module.weight * x).abs().sum(dim=1) * 2**-8).all()
    assert error.max() > 0, "nothing was rounded"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", KERNELS)
@torch.no_grad()
def test_the_kernel_that_is_chosen_works_here(bits, dtype):
    kernel = fastest_kernel(bits, dtype)
    assert kernel is None or BITS[kernel] == bits
    dice = torch.Generator().manual_seed(2)
    modules, x = linears(bits, dtype, dice), torch.randn(1, 64, generator=dice).to(dtype)
    torch.testing.assert_close(build_linear(modules)(x), unpacked(modules, x), rtol=0.02, atol=0.15)


def test_without_a_kernel_weights_are_unpacked(monkeypatch):
    def missing(modules):
        raise RuntimeError("not for this processor")

    monkeypatch.setattr(linear, "KERNELS", {bits: (missing,) for bits in KERNELS})
    assert [fastest_kernel.__wrapped__(bits, torch.float32) for bits in KERNELS] == [None] * 3


@pytest.mark.parametrize(("rows", "is_faster", "is_enabled"), [(1, True, False), (2, True, True), (1, False, True)])
def test_one_row_takes_torchs_own_kernel_where_it_is_faster(monkeypatch, rows, is_faster, is_enabled):
    monkeypatch.setattr(linear, "own_kernel_is_faster", lambda: is_faster)
    with fastest_products(rows):
        assert torch.backends.mkldnn.enabled == is_enabled
    assert torch.backends.mkldnn.enabled


def test_a_product_that_fails_leaves_the_setting_as_it_was(monkeypatch):
    monkeypatch.setattr(linear, "own_kernel_is_faster", lambda: True)
    with pytest.raises(RuntimeError), fastest_products(1):
        torch.ones(1, 2) @ torch.ones(3, 1)
    assert torch.backends.mkldnn.enabled


def test_timing_leaves_the_setting_as_it_was_and_respects_one_that_is_off(monkeypatch):
    own_kernel_is_faster.__wrapped__()
    assert torch.backends.mkldnn.enabled
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not own_kernel_is_faster.__wrapped__()
    assert not torch.backends.mkldnn.enabled


@torch.no_grad()
def test_both_kernels_give_the_product(monkeypatch):
    dice = torch.Generator().manual_seed(3)
    weight, row = (torch.randn(size, 512, generator=dice).bfloat16() for size in (300, 1))
    exact = row.float() @ weight.float().T
    for is_faster in (True, False):
        monkeypatch.setattr(linear, "own_kernel_is_faster", lambda answer=is_faster: answer)
        with fastest_products(1):
            product = torch.nn.functional.linear(row, weight)
        torch.testing.assert_close(product.float(), exact, rtol=2**-7, atol=0.02)
