"""Packed examples against the naive computation, and against each of them alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lars_agent.lars import attach
from lars_agent.lars.forward import reply_hidden
from lars_agent.lars.packing import can_pack
from lars_agent.memory.attention import use_grouped_attention
from lars_agent.memory.plan import Plan
from lars_agent.memory.widths import padded
from lars_agent.training.batches import Encoded, collate
from lars_agent.training.evaluate import reply_nll
from tests.lars.test_forward import windowed_model
from tests.lars.test_serving import adapter_for, naive_response_logits, rows
from tests.tiny import tiny_model

SHORT = Encoded((5,), (7, 8, 9), 1.0, "")  # a prompt that leaves nothing to read before its last token
CUTS = [Plan(), Plan(prompt_chunk=5), Plan(prompt_chunk=5, mlp_tile=3), Plan(recompute=False, mlp_tile=4)]


def packing_model(family="llama"):
    model = tiny_model(family)
    use_grouped_attention(model)
    assert can_pack(model)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"])
@pytest.mark.parametrize("token_term", [True, False])
@pytest.mark.parametrize("plan", CUTS, ids=str)
def test_gradients_of_packed_training_equal_the_naive_computation(family, token_term, plan):
    attachment, batch = attach(packing_model(family)), collate([*rows(), SHORT], 0)
    ours = adapter_for(attachment.model, "response", token_term=token_term)
    naive = copy.deepcopy(ours)
    (reply_nll(attachment, ours, batch, plan).sum() / batch.reply_tokens).backward()
    logits = naive_response_logits(attachment, naive, batch).log_softmax(-1)
    nll = -logits.gather(-1, batch.reply_ids[..., None])[..., 0]
    ((nll * batch.reply_mask).sum() / batch.reply_tokens).backward()
    for (name, one), other in zip(ours.named_parameters(), naive.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            scale = max(1.0, float(other.grad.abs().max()))
            assert float((one.grad - other.grad).abs().max()) <= 1e-5 * scale, name


@torch.no_grad()
def test_no_example_sees_another():
    attachment, examples = attach(packing_model()), rows()
    adapter = adapter_for(attachment.model, "response")
    changed = [replace(examples[0], prompt=(9,) * 9), examples[1], replace(examples[2], reply=(8, 8))]
    before, after = (reply_hidden(attachment, adapter, collate(some, 0)) for some in (examples, changed))
    start = len(examples[0].reply)
    middle = slice(start, start + len(examples[1].reply))
    torch.testing.assert_close(before[middle], after[middle], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:start], after[:start], atol=1e-3)


@torch.no_grad()
def test_the_base_model_is_packed_too():
    packing, padding = attach(packing_model()), attach(tiny_model())
    batch = collate(rows(), 0)
    packed, whole = (reply_hidden(attachment, None, batch) for attachment in (packing, padding))
    torch.testing.assert_close(packed, whole, rtol=1e-4, atol=1e-5)


def test_no_padding_is_computed_but_at_the_end_of_the_row():
    model, seen = packing_model(), []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    examples = [Encoded((5,) * 200, (6,) * 3, 1.0, ""), *(Encoded((5,) * 9, (6,) * 40, 1.0, "") for _ in range(5))]
    reply_hidden(attach(model), adapter_for(model, "response"), collate(examples, 0))
    read, acted = sum(len(row.prompt) - 1 for row in examples), sum(len(row.reply) for row in examples)
    assert seen == [(1, padded(read)), (1, len(examples)), (1, padded(acted))]


def test_autograd_keeps_no_more_than_the_replies_ask_for():
    kept = []
    for length in (8, 400):
        model, total = packing_model(), 0
        adapter = adapter_for(model, "response")

        def keep(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        examples = [Encoded((5,) * length, (6,) * 8, 1.0, "") for _ in range(3)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            reply_hidden(attach(model), adapter, collate(examples, 0), Plan(recompute=False))
        kept.append(total)
    assert kept[0] == kept[1]


def test_sliding_windows_and_foreign_attention_are_padded_instead():
    windowed, foreign = windowed_model(), tiny_model()
    use_grouped_attention(windowed)
    assert not can_pack(windowed)
    assert not can_pack(foreign)
