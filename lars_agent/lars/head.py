"""Extract a model's output head, and verify that nothing else lies between hidden states and logits."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from lars_agent.errors import ModelUnsupported
from lars_agent.ops.losses import Vocabulary
from lars_agent.ops.quantized import QuantizedLinear

TOLERANCE = 1e-2  # of the largest logit; bfloat16 rounds by 4e-3


def vocabulary_of(model: PreTrainedModel) -> Vocabulary:
    """Return the output head of `model`: weights, scale (Granite, Cohere) and soft cap (Gemma 2).

    Raises ModelUnsupported if the whole model's logits for one token differ from the head's.
    """
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(layer, nn.Linear):
        raise ModelUnsupported(f"{type(model).__name__} has no linear output head; choose another model")
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    weight = layer.matrix if isinstance(layer, QuantizedLinear) else layer.weight
    vocabulary = Vocabulary(weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))
    _probe(model, vocabulary)
    return vocabulary


@torch.no_grad()
def _probe(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    whole = model(input_ids=token, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=token, use_cache=False).last_hidden_state
    if (vocabulary.logits(hidden).float() - whole).abs().max() > TOLERANCE * whole.abs().max():
        raise ModelUnsupported(
            f"{type(model).__name__} does something unknown between its hidden states and its logits; "
            "choose another model"
        )
