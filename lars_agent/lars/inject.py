"""Inject LARS into a transformers decoder by forward hooks, without changing the decoder.

`attach` registers a hook on every adaptable linear layer. Hooks act only inside `Attachment.call(...)`, which selects
the adapter, its memory and the tokens. So one base model serves any number of adapters, a swap touches no weight, and
`detach` restores the model exactly.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import regex
import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lars_agent.errors import ConfigError, StateMismatch
from lars_agent.lars.config import LarsConfig
from lars_agent.lars.head import vocabulary_of
from lars_agent.lars.layer import LarsLayer
from lars_agent.lars.pooling import LayerMemory, Tokens, pooling_for
from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.ops.losses import Vocabulary

ALL_LINEAR = "all-linear"
LONGEST_MATCH_S = 0.5  # of a pattern on all names


class LarsAdapter(nn.Module):
    """The parameters of one adapter: a `LarsLayer` for each adapted layer, by the layer's name in the base model."""

    def __init__(self, config: LarsConfig, shapes: dict[str, tuple[int, int]]) -> None:
        """Initialize layers for `shapes`, name to (in_features, out_features), from torch's global RNG."""
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            LarsLayer(
                *shape,
                rank=config.rank,
                dropout=config.dropout,
                scale=config.scale,
                learned_pool=config.pooling == "learned",
            )
            for shape in shapes.values()
        )
        self.pooling = pooling_for(config)
        self.by_name: dict[str, LarsLayer] = dict(zip(shapes, self.layers, strict=True))  # type: ignore[arg-type]

    @classmethod
    def for_model(cls, model: PreTrainedModel, config: LarsConfig, seed: int = 0) -> LarsAdapter:
        """Initialize an adapter for `model` from `seed`. Raises ConfigError if no module is targeted."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, target_shapes(model, config))

    def add_to(self, output: Tensor, name: str, x: Tensor, memory: AdapterMemory, tokens: Tokens) -> Tensor:
        """Add the adapter's contribution for the input `x` (B, S, H) to `output` (B, S, O) of the layer `name`."""
        layer = self.by_name.get(name)
        if layer is None:
            return output
        if x.dim() != 3:
            raise StateMismatch(
                f"layer {name!r} was called with {x.dim()} dimensions; LARS needs (batch, tokens, features)"
            )
        response = self.pooling(layer, memory.layer(name), x, tokens)
        if response is None:
            return output
        if not self.config.token_term:
            return output + tokens.spread(response.bias.to(output.dtype))
        delta = tokens.spread(response.bias) + layer.token_delta(x, tokens.spread(response.gate))
        return output + delta.to(output.dtype)


@dataclass
class AdapterMemory:
    """State of an adapter for one request or batch: a `LayerMemory` for each layer."""

    layers: dict[str, LayerMemory] = field(default_factory=dict)

    def layer(self, name: str) -> LayerMemory:
        """Return the memory of the layer `name`, created on first use."""
        return self.layers.setdefault(name, LayerMemory())

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        tensors = (
            tensor
            for memory in self.layers.values()
            for tensor in (*(memory.response or ()), memory.total, memory.count, memory.last)
        )
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def fork(self) -> AdapterMemory:
        """Return an independent copy that shares the tensors, which are never modified in place."""
        return AdapterMemory({name: replace(memory) for name, memory in self.layers.items()})


class Attachment:
    """The hooks on one base model, created by `attach`; not thread-safe."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        has_cache = "cache" in inspect.signature(model.forward).parameters  # from transformers 5.24 on
        self._cache_name = "cache" if has_cache else "past_key_values"
        self._call: tuple[LarsAdapter, AdapterMemory, Tokens] | None = None
        self._handles = [
            module.register_forward_hook(partial(self._add_to, name)) for name, module in adaptable(model).items()
        ]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's output head, for training and evaluation. Raises ModelUnsupported."""
        return vocabulary_of(self.model)

    def _add_to(self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._call is None:
            return output
        adapter, memory, tokens = self._call
        return adapter.add_to(output, name, args[0], memory, tokens)

    @contextmanager
    def call(self, adapter: LarsAdapter | None, memory: AdapterMemory, tokens: Tokens) -> Iterator[None]:
        """Run forward calls of the model with `adapter` inside the block; None is the base model."""
        before = self._call
        self._call = None if adapter is None else (adapter, memory, tokens)
        try:
            yield
        finally:
            self._call = before

    def capture(self) -> Callable[[], AbstractContextManager[None]]:
        """Return a context manager factory that repeats the current call and memory; see `recomputed_layers`."""
        if self._call is None:
            return nullcontext
        adapter, memory, tokens = self._call
        memory = memory.fork()
        return lambda: self.call(adapter, memory.fork(), tokens)

    @contextmanager
    def part(self, where: slice) -> Iterator[None]:
        """Restrict the current call to a slice of its tokens inside the block."""
        if self._call is None:
            yield
            return
        adapter, memory, tokens = self._call
        with self.call(adapter, memory, tokens.part(where)):
            yield

    def cached(self, cache: Cache | None) -> dict[str, Any]:
        """Return the model's arguments for a forward call that reads `cache` and extends it in place."""
        return {"use_cache": False} if cache is None else {self._cache_name: cache, "use_cache": True}

    def hidden(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the last layer's hidden states (B, S, H) of `ids` (B, S) at `positions` (B, S)."""
        result = self.model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, **self.cached(cache))
        return result.last_hidden_state  # type: ignore[no-any-return]

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def attach(model: PreTrainedModel) -> Attachment:
    """Freeze the weights of `model`, register the hooks, and return their attachment."""
    model.requires_grad_(False)
    return Attachment(model)


def adaptable(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return all linear layers of `model` by name (`nn.Linear`, and GPT-2's `Conv1D`) except the output head."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def target_shapes(model: PreTrainedModel, config: LarsConfig) -> dict[str, tuple[int, int]]:
    """Return name to (in_features, out_features) of the layers targeted by `config`.

    Raises ConfigError, listing the model's layers, if there are none.
    """
    layers, top = list(decoder_layers(model)), config.top_layers
    linears, below = adaptable(model), tuple(f"{name}." for name in layers[: -top if top else 0])
    names = targeted(linears, config)
    shapes = {
        name: features(module) for name, module in linears.items() if name in names and not name.startswith(below)
    }
    if not shapes:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linears})
        raise ConfigError(f"lars.target_modules {config.target_modules!r} matches no layer; the model has {kinds}")
    return shapes


def targeted(names: Iterable[str], config: LarsConfig) -> set[str]:
    """Return the layers that `config` targets, by PEFT's rules.

    A string is a regular expression for the whole name, a tuple holds names or their last parts. Raises ConfigError for
    an expression that takes too long.
    """
    targets = config.target_modules
    if targets == ALL_LINEAR:
        return set(names)
    if not isinstance(targets, str):
        return {name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)}
    pattern, deadline = regex.compile(targets), time.monotonic() + LONGEST_MATCH_S
    try:
        return {name for name in names if pattern.fullmatch(name, timeout=max(1e-3, deadline - time.monotonic()))}
    except TimeoutError:
        raise ConfigError(
            f"lars.target_modules: the regular expression {targets!r:.80} takes longer than {LONGEST_MATCH_S} s to "
            "be compared with the layers' names; repetitions inside of repetitions do, give names instead"
        ) from None


def features(module: nn.Module) -> tuple[int, int]:
    """Return (in_features, out_features) of a linear layer; GPT-2's `Conv1D` stores its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.weight.shape  # type: ignore[misc]
    return int(inputs), int(outputs)
