"""The flat AdamW against torch's, and how far its 8 bits are from its 32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lars_agent.errors import StateMismatch
from lars_agent.ops.adamw import BLOCK, CHUNK, FlatAdamW

DECAY = 0.1


def module(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, 3))


def gradients(network: nn.Module, step: int) -> None:
    """Adds this step's gradient to what is there, as autograd does."""
    x = torch.randn(16, 7, generator=torch.Generator().manual_seed(step))
    (network(x) - x[:, :3].sin()).square().mean().backward()


def flat_run(bits, steps: int = 60, rate: float = 1e-2) -> nn.Module:
    network = module()
    optimizer = FlatAdamW(network.parameters(), DECAY, bits)
    for step in range(steps):
        gradients(network, step)
        optimizer.clip(0.05)
        optimizer.step(rate)
    return network


def loss_of(network: nn.Module) -> float:
    x = torch.randn(500, 7, generator=torch.Generator().manual_seed(999))
    return float((network(x) - x[:, :3].sin()).square().mean().detach())


def test_in_32_bits_it_is_torchs_adamw():
    network = module()
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        gradients(network, step)
        nn.utils.clip_grad_norm_(network.parameters(), 0.05)
        optimizer.step()
    for ours, theirs in zip(flat_run(32).parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_in_8_bits_it_learns_as_well():
    start, exact, coarse = loss_of(module()), loss_of(flat_run(32, 300)), loss_of(flat_run(8, 300))
    assert exact < 0.5 * start
    assert coarse < 1.05 * exact


def test_in_8_bits_the_moments_take_a_quarter():
    parameter = [nn.Parameter(torch.zeros(64, 1024))]
    sizes = {bits: sum(t.nbytes for t in vars(FlatAdamW(parameter, DECAY, bits).moments).values()) for bits in (8, 32)}
    assert sizes[32] == 8 * 64 * 1024
    assert sizes[8] < 0.27 * sizes[32]


def test_the_second_moment_is_never_rounded_to_nothing_and_does_not_freeze():
    parameter = nn.Parameter(torch.zeros(1, BLOCK))
    optimizer = FlatAdamW([parameter], 0.0, 8)
    optimizer.gradient.copy_(torch.logspace(0, -6, BLOCK))
    optimizer.step(0.0)
    roots = optimizer.moments.read(slice(0, BLOCK))[1]
    assert (roots > 0).all()
    for _ in range(700):  # no gradient: exactly, it falls to 0.999 ** 350 of what it was
        optimizer.step(0.0)
    after = optimizer.moments.read(slice(0, BLOCK))[1]
    assert after[:20].sum() == pytest.approx(float(roots[:20].sum()) * 0.999**350, rel=0.05)


@pytest.mark.parametrize("bits", [8, 32])
def test_a_state_goes_on_as_if_nothing_had_happened(bits):
    whole = flat_run(bits, 20)
    first = module()
    optimizer = FlatAdamW(first.parameters(), DECAY, bits)
    for step in range(9):
        gradients(first, step)
        optimizer.clip(0.05)
        optimizer.step(1e-2)
    second = module(1)
    second.load_state_dict(first.state_dict())
    resumed = FlatAdamW(second.parameters(), DECAY, bits)
    resumed.load({key: tensor.clone() for key, tensor in optimizer.state().items()})
    for step in range(9, 20):
        gradients(second, step)
        resumed.clip(0.05)
        resumed.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_the_state_of_other_parameters_is_refused():
    optimizer = FlatAdamW(module().parameters(), DECAY, 32)
    with pytest.raises(StateMismatch, match="another plan"):
        optimizer.load(FlatAdamW([nn.Parameter(torch.zeros(9))], DECAY, 32).state())
    with pytest.raises(StateMismatch, match="missing"):
        optimizer.load({"step": torch.tensor(1)})


@pytest.mark.parametrize(("before", "after"), [(32, 8), (8, 32)])
def test_moments_can_be_kept_in_other_bits_from_any_step_on(before, after):
    changed = FlatAdamW(module().parameters(), DECAY, before)
    changed.gradient.normal_(generator=torch.Generator().manual_seed(0))
    changed.step(1e-2)
    first, root = changed.moments.read(slice(0, BLOCK))
    changed.use_bits(after)
    changed_first, changed_root = changed.moments.read(slice(0, BLOCK))
    assert changed.bits == after
    torch.testing.assert_close(changed_first, first, rtol=0, atol=float(first.abs().max()) / 127)
    torch.testing.assert_close(changed_root, root, rtol=0, atol=float(root.max()) / 255 * 1.01)
    resumed = FlatAdamW(module().parameters(), DECAY, before)
    resumed.load(changed.state())
    assert (resumed.bits, resumed.step_count) == (before, 1)


@pytest.mark.parametrize(("before", "after"), [(32, 8), (8, 32)])
def test_what_was_released_stays_so_when_the_bits_change(before, after):
    optimizer = FlatAdamW(module().parameters(), DECAY, before)
    optimizer.release()
    optimizer.use_bits(after)
    assert sum(tensor.numel() for tensor in vars(optimizer.moments).values()) == 0


def test_parameters_longer_than_a_piece_are_stepped_whole():
    parameter = nn.Parameter(torch.ones(CHUNK + 3 * BLOCK + 5))
    optimizer = FlatAdamW([parameter], DECAY)
    optimizer.gradient.fill_(1.0)
    optimizer.step(0.5)
    torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 0.5))
    assert optimizer.gradient.count_nonzero() == 0
