"""A decoder built from a transformers model: the same numbers with a fraction of the calls.

In token-by-token decoding, a model of many small layers spends more time between its operations than in them: modules,
hooks, masks and caches of transformers are several hundred Python calls per token. Here a layer is two dozen operations
on two-dimensional tensors. Several sequences run at once, their (T, H) tokens concatenated: matrix products run for all
of them together, attention for each separately.

Supported are decoders with Llama's structure: RMS norms before attention and MLP, rotary positions, a gated MLP.
`build_fast_decoder` compares the result with the model itself and returns None if they differ.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lars_agent.ops.blockwise import blockwise_attention
from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.ops.quantized import Quantized
from lars_agent.runtime.fast_linear import build_linear, fastest_products

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
PROJECTION_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # linear layers with the same input, computed as one
QKV, OUT, GATE_UP, DOWN = range(len(PROJECTION_GROUPS))
ROTARY_STEP = 1024  # positions that the table of rotations grows by
COMPARED_TOKENS = 24
FEW_ROWS = 16
# Relative to the hidden states' norm; where rows are rounded to bfloat16 the model's own rounding gives 0.15.
TOLERANCE, ROUNDED_TOLERANCE = 1e-3, 0.2

# Adds an adapter's output, in place: (layer, index into PROJECTION_GROUPS, input (T, I), output (T, O)).
AdapterHook = Callable[[int, int, Tensor, Tensor], None]
Columns = list[tuple[str, slice]]  # names of linear layers, and their parts of a projection's output
Rotations = tuple[Tensor, Tensor]  # cosines and sines, (T, 1, D) each


class KVCache:
    """Keys and values of one sequence: `length` tokens, with memory reserved for `capacity`.

    Pages that were never written take no memory.
    """

    def __init__(self, decoder: FastDecoder, capacity: int) -> None:
        self.length = 0
        heads = decoder.key_heads
        shape = (len(decoder.layers), 2 * heads, capacity, decoder.head_size)
        self.states = torch.empty(shape, dtype=decoder.dtype)  # (L, 2 G, capacity, D), the keys before the values
        self._layers = [(both, both[:heads], both[heads:]) for both in self.states.unbind()]

    def shortened(self, length: int) -> KVCache:
        """Return a view of the first `length` tokens; what is written behind them is written here too."""
        view = copy.copy(self)
        view.length = length
        return view

    def write(self, layer: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """Write `new` (S, 2 G x D) behind the first `length` tokens; return all keys and values, (G, K, D) each.

        `length` stays the same until the caller has written all layers.
        """
        both, keys, values = self._layers[layer]
        start, end = self.length, self.length + len(new)
        if len(new) == 1:
            both.select(1, start).copy_(new.view(len(both), -1))
        else:
            both[:, start:end].copy_(new.view(len(new), len(both), -1).transpose(0, 1))
        return keys.narrow(1, 0, end), values.narrow(1, 0, end)


@dataclass(frozen=True)
class SequenceChunk:
    """The next `tokens` tokens of one sequence in a forward pass, and the sequence's KV cache."""

    kv: KVCache
    tokens: int


class FastLayer:
    """Weights of the decoder layer number `index`, the module `name` of the model."""

    def __init__(self, index: int, name: str, module: Any) -> None:
        groups = [{f"{name}.{part}": module.get_submodule(part) for part in group} for group in PROJECTION_GROUPS]
        self.index = index
        self.projections = [build_linear(list(group.values())) for group in groups]
        self.columns = [_columns(group) for group in groups]  # of the projections' outputs
        self.attention_norm: Tensor = module.input_layernorm.weight
        self.mlp_norm: Tensor = module.post_attention_layernorm.weight
        norms = (getattr(module.self_attn, norm, None) for norm in ("q_norm", "k_norm"))
        self.query_norm, self.key_norm = (getattr(norm, "weight", None) for norm in norms)


class FastDecoder:
    """The decoder of `model`, one of MODEL_TYPES; weights are shared with it where possible."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, decoder = model.config, model.base_model
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in decoder_layers(model)}
        first = next(iter(layers.values()))
        self.dtype: torch.dtype = model.dtype
        self.vocabulary: int = config.vocab_size
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_size: int = first.self_attn.head_dim
        self.scaling: float = first.self_attn.scaling
        self.eps: float = config.rms_norm_eps
        self.activation: Any = F.silu if type(first.mlp.act_fn) is nn.SiLU else first.mlp.act_fn
        self._query_width = self.heads * self.head_size
        self._rotated_width = self._query_width + self.key_heads * self.head_size  # queries and keys
        self.layers = [FastLayer(index, *layer) for index, layer in enumerate(layers.items())]
        self.embedding: Any = model.get_input_embeddings()
        self.final_norm: Any = decoder.norm.weight  # type: ignore[union-attr]
        self._head = build_linear([model.get_output_embeddings()])  # type: ignore[no-untyped-call]
        self._rotary: Any = decoder.rotary_emb
        self._cosine = self._sine = torch.empty(0, self.head_size, dtype=self.dtype)

    @torch.inference_mode()
    def run(self, ids: Tensor, chunks: Sequence[SequenceChunk], hook: AdapterHook | None = None) -> Tensor:
        """Return the hidden states (T, H) of `ids` (T,), the concatenated tokens of `chunks`, and extend their KV
        caches.
        """
        x = self.embedding(ids)
        rotations = self._rotations(chunks)
        with fastest_products(len(x)):
            for layer in self.layers:
                x = x + self._attention(layer, x, chunks, rotations, hook)
                x = x + self._mlp(layer, x, hook)
        for chunk in chunks:
            chunk.kv.length += chunk.tokens
        return self._norm(x, self.final_norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (N, V), float32, of hidden states (N, H)."""
        with fastest_products(len(hidden)):
            return self._head(hidden).float()

    def _attention(
        self,
        layer: FastLayer,
        x: Tensor,
        chunks: Sequence[SequenceChunk],
        rotations: Rotations,
        hook: AdapterHook | None,
    ) -> Tensor:
        qkv = self._project(layer, QKV, self._norm(x, layer.attention_norm), hook)
        rotated = qkv[:, : self._rotated_width].view(len(x), -1, self.head_size)
        normed = rotated
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = rotated[:, : self.heads], rotated[:, self.heads :]
            normed = torch.cat([self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)], dim=1)
        torch.addcmul(normed * rotations[0], normed.roll(self.head_size // 2, 2), rotations[1], out=rotated)
        parts = [qkv] if len(chunks) == 1 else torch.split(qkv, [chunk.tokens for chunk in chunks])
        outs = []
        for chunk, own in zip(chunks, parts, strict=True):
            keys, values = chunk.kv.write(layer.index, own[:, self._query_width :])
            outs.append(self._attend(own[:, : self._query_width], keys, values))
        return self._project(layer, OUT, outs[0] if len(outs) == 1 else torch.cat(outs), hook)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention (S, heads x D) of the last S of the tokens in `keys` and `values` (G, K, D)."""
        if len(query) == 1:  # the query heads that share a key head are rows of one call
            rows = query.view(1, self.key_heads, -1, self.head_size)
            return F.scaled_dot_product_attention(rows, keys[None], values[None], scale=self.scaling).reshape(1, -1)
        heads = query.view(len(query), -1, self.head_size).transpose(0, 1)[None]
        merged = blockwise_attention(heads, keys[None], values[None], None, self.scaling)
        return merged[0].transpose(0, 1).flatten(1)

    def _mlp(self, layer: FastLayer, x: Tensor, hook: AdapterHook | None) -> Tensor:
        gate, up = self._project(layer, GATE_UP, self._norm(x, layer.mlp_norm), hook).chunk(2, dim=1)
        return self._project(layer, DOWN, self.activation(gate).mul_(up), hook)

    def _project(self, layer: FastLayer, group: int, x: Tensor, hook: AdapterHook | None) -> Tensor:
        out = layer.projections[group](x)
        if hook is not None:
            hook(layer.index, group, x, out)
        return out

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the RMS norm of (T, H), or of each head of (T, N, D); scales of a few rows are computed in Python.

        torch's is eight small operations; for a token at a time a norm and two products take a fourth of their time. As
        in transformers, the row is rounded before it is multiplied with the weights.
        """
        if x.ndim > 2 or len(x) > FEW_ROWS:
            return F.rms_norm(x, x.shape[-1:], weight, self.eps)
        count = x.shape[1]
        if len(x) == 1:
            size = torch.linalg.vector_norm(x, dtype=torch.float32).item()
            return x.mul((size * size / count + self.eps) ** -0.5).mul_(weight)
        sizes = torch.linalg.vector_norm(x, dim=1, dtype=torch.float32).tolist()
        scales = [(size * size / count + self.eps) ** -0.5 for size in sizes]
        return x.mul(torch.tensor(scales)[:, None]).to(x.dtype).mul_(weight)

    def _rotations(self, chunks: Sequence[SequenceChunk]) -> Rotations:
        """Return the tokens' rotations, with the sines' first half negated: the factor of a roll by half a head."""
        spans = [slice(chunk.kv.length, chunk.kv.length + chunk.tokens) for chunk in chunks]
        longest = max(span.stop for span in spans)
        if longest > len(self._cosine):
            self._extend_rotations(longest)
        if len(spans) == 1:
            return self._cosine[spans[0], None], self._sine[spans[0], None]
        cosine, sine = (torch.cat([table[span] for span in spans]) for table in (self._cosine, self._sine))
        return cosine[:, None], sine[:, None]

    def _extend_rotations(self, length: int) -> None:
        positions = torch.arange(-(-length // ROTARY_STEP) * ROTARY_STEP)[None]
        cosine, sine = self._rotary(torch.empty(1, dtype=self.dtype), positions)
        half = self.head_size // 2
        self._cosine, self._sine = cosine[0], torch.cat([-sine[0, :, :half], sine[0, :, half:]], dim=1)


def build_fast_decoder(model: PreTrainedModel) -> FastDecoder | None:
    """Return the FastDecoder of `model`; None if it is not supported or computes other hidden states."""
    config = model.config
    if config.model_type not in MODEL_TYPES or getattr(config, "sliding_window", None) is not None:
        return None
    if getattr(config, "use_sliding_window", False) or "dynamic" in str(getattr(config, "rope_parameters", "")):
        return None
    decoder = FastDecoder(model)
    return decoder if _agrees(decoder, model) else None


@torch.no_grad()
def _agrees(decoder: FastDecoder, model: PreTrainedModel) -> bool:
    """Compare the hidden states of a few tokens, half of them as a prompt and the others one at a time."""
    ids = torch.arange(COMPARED_TOKENS) * 7919 % model.config.vocab_size
    expected = model.base_model(input_ids=ids[None]).last_hidden_state[0]
    kv, half = KVCache(decoder, COMPARED_TOKENS), COMPARED_TOKENS // 2
    parts = [ids[:half], *ids[half:].split(1)]
    actual = torch.cat([decoder.run(part, [SequenceChunk(kv, len(part))]) for part in parts])
    is_rounded = decoder.dtype == torch.bfloat16 or any(isinstance(module, Quantized) for module in model.modules())
    tolerance = ROUNDED_TOLERANCE if is_rounded else TOLERANCE
    return bool((actual - expected).float().norm() <= tolerance * expected.float().norm())


def _columns(linears: dict[str, Any]) -> Columns:
    ends = list(itertools.accumulate(int(linear.out_features) for linear in linears.values()))
    return [(name, slice(start, end)) for name, start, end in zip(linears, [0, *ends], ends, strict=False)]
