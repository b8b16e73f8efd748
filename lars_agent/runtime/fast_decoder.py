"""A decoder read again from a transformers model: the same numbers in a fraction of the calls.

A reply is made token by token, and then a model of many small layers spends more time between its operations than in
them. transformers' modules, hooks, masks and caches are several hundred Python calls a token; here a layer is two dozen
operations on two-dimensional tensors. Several sequences are run at once, (T, H) tokens behind one another: products
with the weights are made for all of them together, attention for each alone.

For decoders built as Llama is: RMS norms before attention and MLP, rotary positions, a gated MLP. `lean_model` compares
what it has read with the model itself, and says no where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lars_agent.ops.blockwise import blockwise_attention
from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.runtime.fast_linear import Product, product_of

__all__ = ["Acting", "KeyValues", "LeanModel", "Part", "lean_model"]

KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
SLOTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # linear layers with the same input
QKV, OUT, GATE_UP, DOWN = range(len(SLOTS))
TABLE = 1024  # positions that the table of rotations grows by
PROBE = 24  # tokens that are compared
FEW = 16  # rows
APART = {
    torch.float32: 1e-3,
    torch.bfloat16: 0.2,
}  # of the hidden states' size; in 16 bits the model is 0.15 from itself


class KeyValues:
    """Keys and values of one sequence: room for `capacity` tokens, of which `length` are there.

    Pages that nothing was written to take no memory.
    """

    def __init__(self, model: LeanModel, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys = model.key_heads
        shape = (len(model.layers), 2 * self._keys, capacity, model.head_size)
        self.states = torch.empty(shape, dtype=model.dtype)  # (L, 2 G, capacity, D), the keys before the values
        self._layers = [(both, both[: self._keys], both[self._keys :]) for both in self.states.unbind()]

    def append(self, layer: int, start: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, (G, K, D) each, once `new` (S, 2 G x D) are there from `start` on."""
        count = len(new)
        both, keys, values = self._layers[layer]
        if count == 1:
            both.select(1, start).copy_(new.view(len(both), -1))
        else:
            both[:, start : start + count].copy_(new.view(count, len(both), -1).transpose(0, 1))
        return keys.narrow(1, 0, start + count), values.narrow(1, 0, start + count)


@dataclass(frozen=True)
class Part:
    """`tokens` of one sequence in a pass; their keys and values go into `kept`, behind what is there."""

    kept: KeyValues
    tokens: int


class Acting(Protocol):
    """What an adapter does in a pass."""

    def __call__(self, layer: int, slot: int, x: Tensor, out: Tensor) -> None:
        """Adds to `out` (T, O), what the linear layers of `SLOTS[slot]` made of `x` (T, I)."""
        ...


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer's weights."""

    before_attention: Tensor
    products: tuple[Product, ...]  # one for each of SLOTS
    before_mlp: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


class LeanModel:
    """The decoder of a transformers `model` of one of `KINDS`, whose weights it shares where it can."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self.names = list(decoder_layers(model))
        modules = [model.get_submodule(name) for name in self.names]
        attention: Any = modules[0].self_attn
        self.dtype: torch.dtype = model.dtype
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_size: int = attention.head_dim
        self.hidden: int = config.hidden_size
        self.intermediate: int = config.intermediate_size
        self.scaling: float = attention.scaling
        self.eps: float = config.rms_norm_eps
        self.activation: Any = _function(modules[0].mlp.act_fn)  # type: ignore[union-attr, arg-type]
        self._queries = self.heads * self.head_size
        self._turned = self._queries + self.key_heads * self.head_size
        self.layers = [_layer(module) for module in modules]
        self.embedding: Any = model.get_input_embeddings()
        decoder: Any = model.base_model
        self.last_norm: Tensor = decoder.norm.weight
        self._outputs = [
            [_outputs(name, module, slot) for slot in SLOTS] for name, module in zip(self.names, modules, strict=True)
        ]
        self._head = product_of([model.get_output_embeddings()])  # type: ignore[no-untyped-call]
        self._rotary: Any = decoder.rotary_emb
        self._cosine = self._sine = torch.empty(0, self.head_size, dtype=self.dtype)

    def outputs(self, layer: int, slot: int) -> list[tuple[str, slice]]:
        """The names of the linear layers of a slot, and which columns of its product are theirs."""
        return self._outputs[layer][slot]

    @torch.inference_mode()
    def run(self, ids: Tensor, parts: Sequence[Part], acting: Acting | None = None) -> Tensor:
        """(T, H): the hidden states of the tokens `ids` (T,), which are those of `parts` behind one another.

        The parts' tokens count as kept once all layers are through.
        """
        x = self.embedding(ids)
        starts = [part.kept.length for part in parts]
        cosine, sine = self._rotations(starts, parts)
        for index, layer in enumerate(self.layers):
            x = self._attend(index, layer, x, parts, starts, (cosine, sine), acting)
            x = self._mlp(index, layer, x, acting)
        for part in parts:
            part.kept.length += part.tokens
        return self._norm(x, self.last_norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) float32 of the last hidden states (N, H)."""
        return self._head(hidden).float()

    def _attend(
        self,
        index: int,
        layer: LeanLayer,
        x: Tensor,
        parts: Sequence[Part],
        starts: Sequence[int],
        rotations: tuple[Tensor, Tensor],
        acting: Acting | None,
    ) -> Tensor:
        joined = self._product(index, QKV, layer, self._norm(x, layer.before_attention), acting)
        turned = joined[:, : self._turned].view(len(x), -1, self.head_size)  # queries and keys
        straight = turned
        if layer.query_norm is not None:
            query, key = turned[:, : self.heads], turned[:, self.heads :]
            straight = torch.cat([self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)], dim=1)  # type: ignore[arg-type]
        torch.addcmul(straight * rotations[0], straight.roll(self.head_size // 2, 2), rotations[1], out=turned)
        seen, first = [], 0
        for part, start in zip(parts, starts, strict=True):
            own = joined if part.tokens == len(x) else joined[first : first + part.tokens]
            keys, values = part.kept.append(index, start, own[:, self._queries :])
            seen.append(self._see(own[:, : self._queries], keys, values))
            first += part.tokens
        return x + self._product(index, OUT, layer, seen[0] if len(seen) == 1 else torch.cat(seen), acting)

    def _see(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(S, heads x D) of the queries (S, heads x D) of the last S of the tokens in `keys` and `values` (G, K, D)."""
        if len(query) == 1:  # the query heads that share a key head are rows of one call
            rows = query.view(1, self.key_heads, -1, self.head_size)
            return F.scaled_dot_product_attention(rows, keys[None], values[None], scale=self.scaling).reshape(1, -1)
        heads = query.view(len(query), -1, self.head_size).transpose(0, 1)[None]
        merged = blockwise_attention(heads, keys[None], values[None], None, self.scaling)
        return merged[0].transpose(0, 1).flatten(1)

    def _mlp(self, index: int, layer: LeanLayer, x: Tensor, acting: Acting | None) -> Tensor:
        joined = self._product(index, GATE_UP, layer, self._norm(x, layer.before_mlp), acting)
        gate, up = joined.chunk(2, dim=1)
        return x + self._product(index, DOWN, layer, self.activation(gate).mul_(up), acting)

    def _product(self, index: int, slot: int, layer: LeanLayer, x: Tensor, acting: Acting | None) -> Tensor:
        out = layer.products[slot](x)
        if acting is not None:
            acting(index, slot, x, out)
        return out

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The RMS norm of (T, H), or of each head of (T, N, D); few rows have theirs counted in Python.

        torch's is eight small operations; for a token at a time a norm and two products take a fourth of their time. As
        transformers has it, the row is rounded before it is multiplied with the weights.
        """
        if x.ndim > 2 or len(x) > FEW:
            return F.rms_norm(x, x.shape[-1:], weight, self.eps)
        count = x.shape[1]
        if len(x) == 1:
            size = torch.linalg.vector_norm(x, dtype=torch.float32).item()
            return x.mul((size * size / count + self.eps) ** -0.5).mul_(weight)
        sizes = torch.linalg.vector_norm(x, dim=1, dtype=torch.float32).tolist()
        scales = [(size * size / count + self.eps) ** -0.5 for size in sizes]
        return x.mul(torch.tensor(scales)[:, None]).to(x.dtype).mul_(weight)

    def _rotations(self, starts: Sequence[int], parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
        """(T, 1, D) cosines and sines, the first half of these negative: what a roll by half a head is added with."""
        ends = [start + part.tokens for start, part in zip(starts, parts, strict=True)]
        if max(ends) > len(self._cosine):
            self._extend(max(ends))
        where = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        if len(where) == 1:
            return self._cosine[where[0], None], self._sine[where[0], None]
        return tuple(torch.cat([table[own] for own in where])[:, None] for table in (self._cosine, self._sine))  # type: ignore[return-value]

    def _extend(self, length: int) -> None:
        positions = torch.arange(-(-length // TABLE) * TABLE)[None]
        cosine, sine = self._rotary(torch.empty(1, dtype=self.dtype), positions)
        half = self.head_size // 2
        self._cosine, self._sine = cosine[0], torch.cat([-sine[0, :, :half], sine[0, :, half:]], dim=1)


def lean_model(model: PreTrainedModel) -> LeanModel | None:
    """What is read of `model`; None where it is built otherwise, or gives other hidden states."""
    config = model.config
    if config.model_type not in KINDS or getattr(config, "sliding_window", None) is not None:
        return None
    if getattr(config, "use_sliding_window", False) or "dynamic" in str(getattr(config, "rope_parameters", "")):
        return None
    lean = LeanModel(model)
    return lean if _same(lean, model) else None


@torch.no_grad()
def _same(lean: LeanModel, model: PreTrainedModel) -> bool:
    """Whether both make the same of a few tokens, read as a prompt and then one at a time."""
    ids = torch.arange(PROBE) * 7919 % model.config.vocab_size
    wanted = model.base_model(input_ids=ids[None]).last_hidden_state[0]
    kept = KeyValues(lean, PROBE)
    half = PROBE // 2
    pieces = [ids[:half], *ids[half:].split(1)]
    found = torch.cat([lean.run(piece, [Part(kept, len(piece))]) for piece in pieces])
    return bool((found - wanted).float().norm() <= APART[lean.dtype] * wanted.float().norm())


def _function(activation: nn.Module) -> Any:
    return F.silu if type(activation) is nn.SiLU else activation


def _outputs(layer: str, module: nn.Module, slot: Sequence[str]) -> list[tuple[str, slice]]:
    found, start = [], 0
    for name in slot:
        end = start + int(module.get_submodule(name).out_features)  # type: ignore[arg-type]
        found.append((f"{layer}.{name}", slice(start, end)))
        start = end
    return found


def _layer(module: nn.Module) -> LeanLayer:
    attention: Any = module.self_attn
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return LeanLayer(
        before_attention=module.input_layernorm.weight,  # type: ignore[union-attr, arg-type]
        products=tuple(product_of([module.get_submodule(name) for name in slot]) for slot in SLOTS),
        before_mlp=module.post_attention_layernorm.weight,  # type: ignore[union-attr, arg-type]
        query_norm=None if norms[0] is None else norms[0].weight,
        key_norm=None if norms[1] is None else norms[1].weight,
    )
