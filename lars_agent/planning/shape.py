"""Sizes of a base model and an adapter that determine the memory of a training step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lars_agent.lars.config import LarsConfig
from lars_agent.lars.inject import LarsAdapter, target_shapes
from lars_agent.models.open import open_config
from lars_agent.models.quantize import bits_of, head_is_quantized, is_tied
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.kv_cache import keeps_every_token
from lars_agent.ops.quantized import Bits, quantized_bytes

SAME_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})  # layers of a decoder layer
FAULT_BYTES = 2**16  # mapped by Linux at each page fault (fault-around)


@dataclass(frozen=True)
class ModelShape:
    """Counts, not bytes, unless the name says so.

    Attributes:
        layers, hidden, intermediate, vocabulary: L, H, I, V of the base model.
        query_width, key_width: heads x head size of queries, and of keys (and of values).
        window: tokens in the cache of a sliding-window model, None for full attention.
        weight_bytes: size of the base model's weights, tied ones once.
        adapted_layers: decoder layers from the first adapted one on.
        adapted_in, adapted_out, ranks: in-features, out-features and R of all adapted linear layers, summed.
        pooled_in: in-features of the adapted layers, those with the same input once.
        adapter_parameters: of the adapter.
        quantized, quantized_head: True if the linear layers, and the output head, are quantized.
        response: True if only reply tokens enter autograd (`response` pooling).
        packed: True if examples are then packed instead of padded to the longest.
        embedding_row_bytes: of one row of an input embedding that is read from the mapped file row by row; 0 if it is
            the output head too, or is converted when it is loaded.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    query_width: int
    key_width: int
    window: int | None
    weight_bytes: int
    adapted_layers: int
    adapted_in: int
    adapted_out: int
    ranks: int
    adapter_parameters: int
    response: bool
    quantized: bool = False
    quantized_head: bool = False
    packed: bool = False
    embedding_row_bytes: int = 0
    pooled_in: int = 0

    def unread_bytes(self, token_ids: Iterable[int]) -> int:
        """Return the bytes of the embedding that are never loaded if only the rows of `token_ids` are read."""
        size = self.embedding_row_bytes
        faults = {end // FAULT_BYTES for token in token_ids for end in (token * size, (token + 1) * size - 1)}
        return max(0, size * self.vocabulary - FAULT_BYTES * len(faults))


def shape_of(
    folder: Path, lars: LarsConfig, dtype: torch.dtype = torch.bfloat16, weight_bits: Bits | None = None
) -> ModelShape:
    """Return the shape of the base model in `folder` under an adapter of `lars`, without reading weights.

    `dtype` and `weight_bits` as in `lars_agent.models.open.open_model`.
    """
    config = open_config(folder)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        adapter = LarsAdapter(lars, shapes := target_shapes(model, lars))
    text = config.get_text_config(decoder=True)
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else None
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    widest = max((module.out_features for module in linears if module.out_features < text.vocab_size), default=0)
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or widest or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        query_width=text.num_attention_heads * head_size,
        key_width=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size,
        window=_window(text),
        weight_bytes=_weight_bytes(model, dtype, weight_bits),
        adapted_layers=min(text.num_hidden_layers, lars.top_layers or text.num_hidden_layers),
        adapted_in=sum(inputs for inputs, _ in shapes.values()),
        adapted_out=sum(outputs for _, outputs in shapes.values()),
        pooled_in=sum({_input_of(name): inputs for name, (inputs, _) in shapes.items()}.values()),
        ranks=lars.rank * len(shapes),
        adapter_parameters=sum(parameter.numel() for parameter in adapter.parameters()),
        response=lars.pooling == "response",
        quantized=weight_bits is not None,
        quantized_head=weight_bits is not None and head_is_quantized(model, weight_bits),
        embedding_row_bytes=_embedding_row_bytes(model, stored, dtype, weight_bits),
        packed=lars.pooling == "response" and use_grouped_attention(model) and keeps_every_token(text),
    )


def _input_of(name: str) -> str:
    """Return a name for the input of a linear layer, which some share with others."""
    parent, _, last = name.rpartition(".")
    kind = next((number for number, kinds in enumerate(SAME_INPUT) if last in kinds), last)
    return f"{parent}.{kind}"


def _weight_bytes(model: PreTrainedModel, dtype: torch.dtype, weight_bits: Bits | None) -> int:
    """Return the size of the weights, tied ones once."""
    bits = {} if weight_bits is None else bits_of(model, weight_bits)
    quantized = {f"{name}.weight": size for name, size in bits.items()}
    return sum(
        quantized_bytes(parameter.shape, quantized[name]) if name in quantized else parameter.numel() * dtype.itemsize
        for name, parameter in model.named_parameters()
    )


def _embedding_row_bytes(
    model: PreTrainedModel, stored: torch.dtype | None, dtype: torch.dtype, weight_bits: Bits | None
) -> int:
    embedding: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    if is_tied(model) or (weight_bits is None and stored != dtype):
        return 0
    if weight_bits is None:
        return embedding.embedding_dim * dtype.itemsize
    return quantized_bytes(embedding.weight.shape, max(8, weight_bits)) // embedding.num_embeddings


def _window(text: object) -> int | None:
    """Return the sliding window if every layer has one."""
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and any(kind != "sliding_attention" for kind in kinds):
        return None
    return getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
