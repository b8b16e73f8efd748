"""The layer against the paper's equations."""

from __future__ import annotations

import pytest
import torch

from lars_agent.lars.layer import LarsLayer
from lars_agent.lars.pooling import (
    CausalPooling,
    LayerMemory,
    Tokens,
    mean_and_last,
    pool_learned,
    pool_prompt,
    pool_response,
    pool_sequence,
)
from tests.lars.reference import mean_plus_last, reference_bias, reference_gate

H, O, R = 7, 5, 4


def layer(*, learned_pool: bool = False) -> LarsLayer:
    torch.manual_seed(0)
    made = LarsLayer(H, O, rank=R, dropout=0.1, scale=0.5, learned_pool=learned_pool).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return made


def inputs(*rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x (B, S, H) padded on the left, and the mask (B, S)."""
    width = max(rows)
    mask = torch.tensor([[False] * (width - n) + [True] * n for n in rows])
    x = torch.randn(len(rows), width, H, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    return x, mask


def test_layer_equals_the_plain_tensor_reference_in_float64():
    made = layer()
    pooled = torch.randn(3, 2, H, dtype=torch.double)
    response = made(pooled)
    state = made.state_dict()
    for b in range(3):
        for k in range(2):
            torch.testing.assert_close(response.bias[b, k], reference_bias(state, pooled[b, k]), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(response.gate[b, k], reference_gate(state, pooled[b, k]), rtol=1e-12, atol=1e-12)


def test_token_term_equals_the_plain_tensor_reference():
    made = layer()
    x = torch.randn(2, 3, H, dtype=torch.double)
    gate = torch.rand(2, 1, R, dtype=torch.double) * 2
    delta = made.token_delta(x, gate)
    state = made.state_dict()
    for b in range(2):
        for s in range(3):
            expected = state["scale"] * (state["up"] @ (gate[b, 0] * (state["down"] @ x[b, s])))
            torch.testing.assert_close(delta[b, s], expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_layer_and_pooling_pass_gradcheck():
    made = layer()
    x, mask = inputs(4, 2)
    names, values = zip(*made.named_parameters(), strict=True)

    def bias(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        pooled = pool_sequence
        call = lambda p: torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (p,))  # noqa: E731
        response = pooled(call, LayerMemory(), x, Tokens(real=mask))  # type: ignore[arg-type]
        assert response is not None
        return response.bias

    assert torch.autograd.gradcheck(bias, (x.requires_grad_(), *(v.detach().requires_grad_() for v in values)))


def test_gradients_of_the_token_term_pass_gradcheck_for_input_gate_and_output_matrix():
    made = layer()
    x = torch.randn(1, 3, H, dtype=torch.double, requires_grad=True)
    gate = torch.rand(1, 1, R, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(made.token_delta, (x, gate))


def test_autograd_keeps_no_activation_as_long_as_the_sequence():
    made = LarsLayer(H, O, rank=R, dropout=0.1, scale=0.5)
    x = torch.randn(1, 1000, H, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pool_sequence(made, LayerMemory(), x, Tokens(real=torch.ones(1, 1000, dtype=torch.bool)))
    assert max(kept) <= 1000  # the pooling weights, one number a token; never the 7,000 of x


def test_mean_and_last_ignores_padding_on_either_side():
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    expected = torch.tensor([[[0, 0.5, 1.5, 0]], [[0.25, 0.25, 0.25, 1.25]]], dtype=torch.double)
    torch.testing.assert_close(mean_and_last(mask), expected)


@pytest.mark.parametrize("pooling", [pool_sequence, pool_prompt])
def test_fixed_pooling_is_mean_plus_last_of_the_real_tokens(pooling):
    made = layer()
    x, mask = inputs(5, 2)
    response = pooling(made, LayerMemory(), x, Tokens(real=mask, prompt=mask))
    assert response is not None
    for b, n in enumerate((5, 2)):
        expected = reference_bias(made.state_dict(), mean_plus_last(x[b, -n:]))
        torch.testing.assert_close(response.bias[b, 0], expected, rtol=1e-10, atol=1e-10)


def test_learned_pooling_is_a_softmax_over_the_real_tokens():
    made = layer(learned_pool=True)
    x, mask = inputs(5, 2)
    response = pool_learned(made, LayerMemory(), x, Tokens(real=mask))
    assert response is not None
    for b, n in enumerate((5, 2)):
        tokens = x[b, -n:]
        weights = torch.softmax(tokens @ made.pool_query, dim=0)
        expected = reference_bias(made.state_dict(), weights @ tokens)
        torch.testing.assert_close(response.bias[b, 0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [[6], [4, 2], [1] * 6])
def test_response_pooling_reads_the_prompt_in_any_number_of_calls(pieces):
    made = layer()
    x, _ = inputs(6)
    memory, start = LayerMemory(), 0
    for length in pieces:
        real = torch.ones(1, length, dtype=torch.bool)
        assert pool_response(made, memory, x[:, start : start + length], Tokens(real=real, reading=True)) is None
        start += length
    acting = pool_response(made, memory, x[:, -1:], Tokens(real=torch.ones(1, 1, dtype=torch.bool)))
    assert acting is not None
    expected = reference_bias(made.state_dict(), mean_plus_last(x[0]))
    torch.testing.assert_close(acting.bias[0, 0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [[11], [5, 6], [1] * 11, [3, 1, 1, 6]])
def test_causal_pooling_sees_finished_chunks_only_however_the_tokens_come(pieces):
    made, chunk = layer(), 3
    x, _ = inputs(11)
    memory, start, seen = LayerMemory(), 0, []
    for length in pieces:
        tokens = Tokens(real=torch.ones(1, length, dtype=torch.bool), offset=torch.tensor([start]))
        response = CausalPooling(chunk)(made, memory, x[:, start : start + length], tokens)
        assert response is not None
        seen.append(response.bias[0])
        start += length
    bias = torch.cat(seen)
    for t in range(11):
        finished = t // chunk * chunk
        expected = torch.zeros(O, dtype=torch.double)
        if finished:
            expected = reference_bias(made.state_dict(), mean_plus_last(x[0, :finished]))
        torch.testing.assert_close(bias[t], expected, rtol=1e-10, atol=1e-10)


def test_causal_pooling_counts_no_padding():
    made, chunk = layer(), 3
    x, mask = inputs(8, 5)
    both = CausalPooling(chunk)(made, LayerMemory(), x, Tokens(real=mask))
    alone = CausalPooling(chunk)(made, LayerMemory(), x[1:, 3:], Tokens(real=mask[1:, 3:]))
    assert both is not None
    assert alone is not None
    torch.testing.assert_close(both.bias[1, 3:], alone.bias[0], rtol=1e-10, atol=1e-10)
