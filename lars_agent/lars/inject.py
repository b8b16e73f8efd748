"""Puts LARS into a decoder of transformers without changing the decoder.

`attach` hangs one forward hook on every linear layer that could be adapted. The hooks are idle until a call is made
inside `Attachment.call(...)`, which says which adapter, which memory and which tokens. So one base model serves any
number of adapters, a swap touches no weight, and `detach` leaves the model as it was, byte for byte.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

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


class LarsAdapter(nn.Module):
    """The parameters of one adapter: a `LarsLayer` for each adapted layer, by the layer's name in the base model."""

    def __init__(self, config: LarsConfig, shapes: dict[str, tuple[int, int]]) -> None:
        """Makes fresh layers for `shapes`, name to (in_features, out_features), from torch's global RNG."""
        super().__init__()
        self.config = config
        self.names = tuple(shapes)
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
        self.by_name: dict[str, LarsLayer] = dict(zip(self.names, self.layers, strict=True))  # type: ignore[arg-type]

    @classmethod
    def for_model(cls, model: PreTrainedModel, config: LarsConfig, seed: int = 0) -> LarsAdapter:
        """A fresh adapter for `model`, the same for the same seed. Raises ConfigError when no module is targeted."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, target_shapes(model, config))

    def add_to(self, output: Tensor, name: str, x: Tensor, memory: AdapterMemory, tokens: Tokens) -> Tensor:
        """`output` (B, S, O) of the layer `name` with what this adapter adds for its input `x` (B, S, H)."""
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
    """What an adapter remembers of one request (or one batch): a `LayerMemory` per layer."""

    layers: dict[str, LayerMemory] = field(default_factory=dict)

    def layer(self, name: str) -> LayerMemory:
        """The memory of the layer `name`, made on first use."""
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
        """A copy that later calls change without changing this one; tensors are shared, for none is written into."""
        return AdapterMemory({name: replace(memory) for name, memory in self.layers.items()})


class Attachment:
    """The hooks on one base model. Made by `attach`; not for use from two threads at once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._cache_name = cache_name(model)
        self._call: tuple[LarsAdapter, AdapterMemory, Tokens] | None = None
        self._handles = [module.register_forward_hook(self._hook(name)) for name, module in adaptable(model).items()]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's output head. Raises ModelUnsupported; only training and judging need it, serving does not."""
        return vocabulary_of(self.model)

    def _hook(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._call is None:
                return output
            adapter, memory, tokens = self._call
            return adapter.add_to(output, name, args[0], memory, tokens)

        return add

    @contextmanager
    def call(self, adapter: LarsAdapter | None, memory: AdapterMemory, tokens: Tokens) -> Iterator[None]:
        """Inside, forward calls of the model run with `adapter`; with None they are the base model's."""
        before = self._call
        self._call = None if adapter is None else (adapter, memory, tokens)
        try:
            yield
        finally:
            self._call = before

    def capture(self) -> Callable[[], AbstractContextManager[None]]:
        """What makes the call as it stands now once more, its memory as it is now: see `recomputed_layers`."""
        if self._call is None:
            return nullcontext
        adapter, memory, tokens = self._call
        memory = memory.fork()
        return lambda: self.call(adapter, memory.fork(), tokens)

    @contextmanager
    def part(self, where: slice) -> Iterator[None]:
        """Inside, the call goes on with some of its tokens alone."""
        if self._call is None:
            yield
            return
        adapter, memory, tokens = self._call
        with self.call(adapter, memory, tokens.part(where)):
            yield

    def cached(self, cache: Cache | None) -> dict[str, Any]:
        """The model's arguments that make a forward call read `cache` and extend it in place."""
        return {"use_cache": False} if cache is None else {self._cache_name: cache, "use_cache": True}

    def detach(self) -> None:
        """Removes the hooks; the model is what it was before `attach`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def attach(model: PreTrainedModel) -> Attachment:
    """Hangs the hooks on `model`, freezes its weights, and returns the attachment that drives them."""
    freeze(model)
    return Attachment(model)


def cache_name(model: nn.Module) -> str:
    """What the model's forward calls its KV cache: `past_key_values`, from transformers 5.24 on `cache`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def freeze(model: nn.Module) -> None:
    """No parameter of `model` asks for a gradient any more."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def adaptable(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer of `model` by name (`nn.Linear`, and GPT-2's `Conv1D`), the output head left out."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def target_shapes(model: PreTrainedModel, config: LarsConfig) -> dict[str, tuple[int, int]]:
    """Name to (in_features, out_features) of the layers that `config.target_modules` means.

    Raises ConfigError when it means none, naming what there is.
    """
    linears, below = adaptable(model), layers_below(model, config.top_layers)
    shapes = {
        name: features(module)
        for name, module in linears.items()
        if is_target(name, config) and not name.startswith(below)
    }
    if not shapes:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in linears})
        raise ConfigError(f"lars.target_modules {config.target_modules!r} matches no layer; the model has {kinds}")
    return shapes


def layers_below(model: PreTrainedModel, top: int) -> tuple[str, ...]:
    """What the names of modules in decoder layers begin with that lie below the last `top` (0: all of them)."""
    layers = list(decoder_layers(model))
    return tuple(f"{name}." for name in layers[: -top if top else 0])


def is_target(name: str, config: LarsConfig) -> bool:
    """Whether the layer `name` is adapted, by PEFT's rules: a string is a regular expression for the whole name, a
    tuple holds names or their last parts.
    """
    targets = config.target_modules
    if targets == ALL_LINEAR:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def features(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer; GPT-2's `Conv1D` keeps its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.weight.shape  # type: ignore[misc]
    return int(inputs), int(outputs)
