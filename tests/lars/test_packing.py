"""Packed examples against the naive computation, and against each of them alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lars_agent.errors import ModelUnsupported
from lars_agent.lars import attach
from lars_agent.lars.forward import reply_hidden
from lars_agent.lars.packing import can_pack
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.padding import padded
from lars_agent.training.batches import Encoded, collate
from lars_agent.training.evaluate import token_nll
from tests.lars.test_forward import windowed_model
from tests.lars.test_serving import FAMILIES, adapter_for, naive_response_logits, rows
from tests.tiny import COMMON, tiny_model

SHORT = Encoded((5,), (7, 8, 9), 1.0, "")  # a prompt that leaves nothing to read before its last token
CUTS = [
    MemoryPlan(),
    MemoryPlan(prompt_chunk=5),
    MemoryPlan(prompt_chunk=5, mlp_tile=3),
    MemoryPlan(recompute=False, mlp_tile=4),
]


def packing_model(family="llama"):
    model = tiny_model(family)
    use_grouped_attention(model)
    assert can_pack(model)
    return model


def widths(model) -> list[torch.Size]:
    """The shapes of what `model` is called with from now on."""
    seen: list[torch.Size] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    return seen


CELLS = [("llama", plan) for plan in CUTS] + [(family, CUTS[1]) for family in FAMILIES[1:]]


@pytest.mark.parametrize("token_term", [True, False])
@pytest.mark.parametrize(("family", "plan"), CELLS, ids=str)
def test_gradients_of_packed_training_equal_the_naive_computation(family, token_term, plan):
    attachment, batch = attach(packing_model(family)), collate([*rows(), SHORT], 0)
    ours = adapter_for(attachment.model, "response", token_term=token_term)
    naive = copy.deepcopy(ours)
    (token_nll(attachment, ours, batch, plan).sum() / batch.reply_tokens).backward()
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
    seen = widths(packing.model)
    packed, whole = (reply_hidden(attachment, None, collate(rows(), 0)) for attachment in (packing, padding))
    torch.testing.assert_close(packed, whole, rtol=1e-4, atol=1e-5)
    assert seen == [(1, padded(8 + 2 + 13)), (1, padded(7 + 4 + 2))]  # no pooled sums, so no last tokens apart


@pytest.mark.parametrize("examples", [[SHORT], [SHORT, SHORT], [Encoded((5, 6), (), 1.0, ""), *rows()]])
def test_prompts_with_nothing_to_read_and_replies_of_nothing_are_no_trouble(examples):
    attachment, padding = attach(packing_model()), attach(tiny_model())
    adapter = adapter_for(attachment.model, "response")
    packed, whole = (reply_hidden(each, adapter, collate(examples, 0)) for each in (attachment, padding))
    torch.testing.assert_close(packed, whole, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        base = reply_hidden(attachment, None, collate(examples, 0))
    assert base.shape == packed.shape


def test_in_8_bits_short_replies_are_kept_small_too():
    """What autograd keeps of attention belongs to the row; pieces of it would each be too small for the trouble."""
    sizes = COMMON | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    use_grouped_attention(model)
    adapter = adapter_for(model, "response", token_term=False)
    examples = [Encoded((5,) * 9, (6,) * 40, 1.0, "") for _ in range(8)]
    whole_rows = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: whole_rows.append(x) or x, lambda x: x):
        reply_hidden(attach(model), adapter, collate(examples, 0), MemoryPlan(recompute=False))
    heads = [x for x in whole_rows if x.dim() == 4 and x.shape[-1] == 256 // 4]
    assert heads
    assert all(x.shape[2] == 8 * 40 for x in heads)


def test_keys_that_are_made_anew_behind_the_cache_are_refused(monkeypatch):
    model = packing_model()
    monkeypatch.setattr("lars_agent.ops.attention.prefix_of", lambda keys: None)
    with pytest.raises(ModelUnsupported, match="new keys"):
        reply_hidden(attach(model), adapter_for(model, "response"), collate(rows(), 0))


def test_no_padding_is_computed_but_at_the_end_of_the_row():
    model = packing_model()
    seen = widths(model)
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
            reply_hidden(attach(model), adapter, collate(examples, 0), MemoryPlan(recompute=False))
        kept.append(total)
    assert kept[0] == kept[1]


def test_sliding_windows_and_foreign_attention_are_padded_instead():
    windowed, foreign = windowed_model(), tiny_model()
    use_grouped_attention(windowed)
    assert not can_pack(windowed)
    assert not can_pack(foreign)
