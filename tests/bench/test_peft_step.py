"""PEFT's methods are compared at the loss that they would have anyway."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench.memory.peft_step import chunked_loss, peft_model, whole_loss
from lars_agent.lars.head import vocabulary_of
from tests.tiny import tiny_model


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's
def test_the_chunked_loss_is_the_whole_one_with_dropout_too():
    base = tiny_model("llama")
    vocabulary = vocabulary_of(base)
    model = peft_model("lora", base)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    found = []
    for loss in (whole_loss, partial(chunked_loss, vocabulary)):
        torch.manual_seed(0)
        found.append(loss(model, torch.arange(5, 25)[None], 6))
    torch.manual_seed(1)
    assert not torch.isclose(found[0], whole_loss(model, torch.arange(5, 25)[None], 6))  # there is dropout
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
