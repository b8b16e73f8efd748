"""The plan changes no result: losses and gradients are the same however a step is cut up."""

from __future__ import annotations

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from lars_agent.lars import attach
from lars_agent.lars.forward import reply_hidden
from lars_agent.ops import saved_tensors as saved
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training.batches import collate
from lars_agent.training.evaluate import token_nll
from tests.lars.test_serving import FAMILIES, MODES, adapter_for, naive_response_logits, rows, served_logits
from tests.tiny import COMMON, tiny_model

PLAIN = MemoryPlan(prompt_chunk=1000, loss_chunk=1000, recompute=False)
WINDOW = 5  # shorter than the longest prompt, so that its first tokens leave the window


def windowed_model():
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**COMMON, sliding_window=WINDOW)).eval()


def loss_and_gradients(attachment, adapter, plan):
    """The batch's loss and the gradient of each parameter (None where it has none)."""
    adapter.zero_grad()
    batch = collate(rows(), 0)
    torch.manual_seed(7)  # the dropout's
    loss = token_nll(attachment, adapter, batch, plan).sum() / batch.reply_tokens
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}


PLANS = [
    MemoryPlan(recompute=True),
    MemoryPlan(prompt_chunk=3),
    MemoryPlan(1, 4, 2, recompute=True),
    MemoryPlan(mlp_tile=2),
    MemoryPlan(mlp_tile=3, recompute=False),
    MemoryPlan(saved="disk"),
    MemoryPlan(saved="disk", recompute=False, mlp_tile=2),
]


@pytest.fixture(autouse=True)
def nothing_is_too_small_for_the_disk(monkeypatch):
    monkeypatch.setattr(saved, "MIN_NUMBERS", 1)


# Each plan with each pooling, and in each family: what all three together do differently is made of pairs.
CELLS = [("llama", pooling, plan) for pooling in MODES for plan in PLANS]
CELLS += [(family, "response", plan) for family in FAMILIES[1:] for plan in PLANS]


@pytest.mark.parametrize(("family", "pooling", "plan"), CELLS, ids=str)
def test_every_plan_gives_the_loss_and_the_gradients_of_the_plain_computation(family, pooling, plan):
    model = tiny_model(family)
    use_grouped_attention(model)
    attachment, adapter = attach(model), adapter_for(model, pooling)
    adapter.train()
    expected_loss, expected = loss_and_gradients(attachment, adapter, PLAIN)
    loss, gradients = loss_and_gradients(attachment, adapter, plan)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("chunk", [1, 2, 4, 7, 100])
@torch.no_grad()
def test_the_prompt_may_be_read_in_chunks_of_any_size_also_past_a_sliding_window(chunk):
    model = windowed_model()
    attachment, adapter, batch = attach(model), adapter_for(model, "response"), collate(rows(), 0)
    whole = reply_hidden(attachment, adapter, batch, PLAIN)
    pieces = reply_hidden(attachment, adapter, batch, MemoryPlan(prompt_chunk=chunk))
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_naive_computation_past_a_sliding_window():
    model = windowed_model()
    attachment, adapter, batch = attach(model), adapter_for(model, "response"), collate(rows(), 0)
    _, ours = loss_and_gradients(attachment, adapter, MemoryPlan(prompt_chunk=3))
    adapter.zero_grad()
    logits = naive_response_logits(attachment, adapter, batch).log_softmax(-1)
    nll = -logits.gather(-1, batch.reply_ids[..., None])[..., 0]
    ((nll * batch.reply_mask).sum() / batch.reply_tokens).backward()
    for name, parameter in adapter.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_served_equals_trained_past_a_sliding_window():
    model = windowed_model()
    attachment, adapter = attach(model), adapter_for(model, "response")
    for row in rows():
        hidden = reply_hidden(attachment, adapter, collate([row], 0))
        trained = attachment.vocabulary.logits(hidden).log_softmax(-1)
        torch.testing.assert_close(served_logits(attachment, adapter, row).log_softmax(-1), trained, rtol=0, atol=1e-4)


def test_with_recomputation_autograd_keeps_one_tensor_a_layer():
    """What is saved for the backward pass: without it every activation, with it the layers' inputs and little more."""
    kept: dict[bool, int] = {}
    for recompute in (False, True):
        attachment, total = attach(tiny_model("llama")), 0
        adapter = adapter_for(attachment.model, "response")

        def keep(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            reply_hidden(attachment, adapter, collate(rows(), 0), MemoryPlan(recompute=recompute))
        kept[recompute] = total
    assert kept[True] < 0.1 * kept[False]
