from __future__ import annotations

import pytest
import torch

from lars_agent.lars import attach
from lars_agent.lars.decoding import HfSequence, greedy_replies
from lars_agent.ops.attention import use_grouped_attention
from tests.lars.test_serving import adapter_for, rows
from tests.tiny import tiny_model

MOST = 6


def alone(attachment, adapter, prompt, end) -> list[int]:
    """The likeliest tokens, one after the other."""
    sequence, chosen = HfSequence(attachment, adapter, prompt, MOST), []
    list(sequence.prefill())
    while len(chosen) < MOST and (token := int(sequence.logits.argmax())) != end:
        chosen.append(token)
        sequence.step(token)
    return chosen


@pytest.mark.parametrize("pooling", [None, "response", "causal"])
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_several_prompts_are_answered_at_once_as_each_is_alone(family, pooling):
    model = tiny_model(family)
    use_grouped_attention(model)
    attachment, adapter = attach(model), None if pooling is None else adapter_for(model, pooling)
    prompts = [row.prompt for row in rows()]
    unended = [alone(attachment, adapter, prompt, None) for prompt in prompts]
    assert len({tuple(reply) for reply in unended}) == len(prompts)
    end = unended[1][2]  # so that one ends before the others
    expected = [alone(attachment, adapter, prompt, end) for prompt in prompts]
    assert len(expected[1]) < MOST
    assert greedy_replies(attachment, adapter, prompts, None, MOST) == unended
    assert greedy_replies(attachment, adapter, prompts, end, MOST) == expected


def test_no_prompt_has_no_reply():
    assert greedy_replies(attach(tiny_model("llama")), None, [], None, MOST) == []


def test_several_prompts_take_one_call_a_step():
    model, calls = tiny_model("llama"), []
    attachment = attach(model)
    assert attachment.vocabulary  # found by calls of its own
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: calls.append(args[0].shape))
    with torch.no_grad():
        greedy_replies(attachment, adapter_for(model, "response"), [row.prompt for row in rows()], None, MOST)
    assert [shape for shape in calls if shape[1] == 1][-MOST:] == [(3, 1)] * MOST
