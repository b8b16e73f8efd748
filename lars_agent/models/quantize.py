"""A base model's weights in 8 or 4 bits: a file beside them, made once, mapped by whoever opens the model.

Linear layers are quantised, and the embedding with a tied output head to 8 bits in either case (it is read as single
rows, and as logits, where 4 bits cost most). Norms, biases, an embedding of a class of its own (Gemma's scales its
rows) and layers whose width is no multiple of 32 stay as they are, or go to 8 bits where 4 do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lars_agent.files import write_atomically
from lars_agent.ops.quantized import (
    BLOCK,
    Bits,
    Quantized,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedMatrix,
    parts,
    quantize,
    stored_shapes,
)
from lars_agent.ops.safetensors_io import Layout, TensorFiles, tensor_file_of

__all__ = [
    "bits_of",
    "head_is_quantized",
    "quantize_in_place",
    "quantized_file",
    "quantized_parts",
    "tie_quantized",
    "use_quantized",
]


def bits_of(model: PreTrainedModel, bits: Bits) -> dict[str, Bits]:
    """In how many bits each module of `model` is kept whose weight is quantised, by name."""
    chosen: dict[str, Bits] = {}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = is_tied(model)
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and module is embedding:
            chosen[name] = 8
        elif type(module) is nn.Linear and not (module is head and tied):
            chosen[name] = 8 if module is head or module.in_features % BLOCK else bits
    return chosen


def quantized_file(model: PreTrainedModel, files: Sequence[Path], digest: str, bits: Bits) -> Path:
    """The file with the weights of `files` in `bits`, which is made if it is not there.

    `model` may be on the meta device; `digest` identifies the weights. Raises DiskFull, or OSError when the folder
    cannot be written.
    """
    path = files[0].parent / f"model-int{bits}-{digest[:12]}.safetensors"
    if not path.is_file():
        source, doubled = TensorFiles(files), _tied_heads(model)
        names = [name for name in source.names if name not in doubled]
        chosen = {f"{name}.weight": size for name, size in bits_of(model, bits).items()}
        layout = _layout(source, names, chosen)
        write_atomically(path, tensor_file_of(layout, _tensors(source, names, chosen)))
    return path


def use_quantized(model: PreTrainedModel, bits: Bits, dtype: torch.dtype) -> None:
    """Those modules of `model` (on the meta device) that are to be quantised have room for their quantised weights."""
    for name, size in bits_of(model, bits).items():
        module = model.get_submodule(name)
        shapes = stored_shapes(module.weight.shape, size)  # type: ignore[arg-type]
        matrix = QuantizedMatrix(**{part: torch.empty(s, dtype=d, device="meta") for part, (d, s) in shapes.items()})
        model.set_submodule(name, _module(module, matrix, dtype))


def quantize_in_place(model: PreTrainedModel, bits: Bits, dtype: torch.dtype) -> None:
    """The modules of `model` that `bits_of` names hold their weights quantised."""
    for name, size in bits_of(model, bits).items():
        module = model.get_submodule(name)
        matrix = quantize(module.weight.detach(), size)  # type: ignore[operator]
        model.set_submodule(name, _module(module, matrix, dtype))
    tie_quantized(model)


def tie_quantized(model: PreTrainedModel) -> None:
    """A tied output head shares the bytes of the embedding, which are there."""
    embedding: Any = model.get_input_embeddings()
    if not is_tied(model):
        return
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(embedding, QuantizedEmbedding):
        model.set_output_embeddings(QuantizedLinear(embedding.matrix, head.bias, embedding.dtype))  # type: ignore[no-untyped-call]
    else:
        head.weight = embedding.weight


def quantized_parts(model: PreTrainedModel) -> set[str]:
    """The names of the tensors that quantised weights of `model` are kept in: their dtypes are their own."""
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, Quantized)]
    return {f"{name}.{part}" for name, module in modules for part in parts(module.matrix)}


def head_is_quantized(model: PreTrainedModel, bits: Bits) -> bool:
    """Whether the output head of `model`, or the embedding that it is tied to, is one of those that `bits_of` names."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight = embedding if is_tied(model) else head
    return any(model.get_submodule(name) is weight for name in bits_of(model, bits))


def _module(module: nn.Module, matrix: QuantizedMatrix, dtype: torch.dtype) -> nn.Module:
    """What takes the place of `module`."""
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(matrix, module.padding_idx, dtype)
    return QuantizedLinear(matrix, module.bias, dtype)  # type: ignore[arg-type]


def _layout(source: TensorFiles, names: Sequence[str], chosen: dict[str, Bits]) -> Layout:
    layout: dict[str, Any] = {}
    for name in names:
        tensor = source.tensor(name)
        if name in chosen:
            stored = stored_shapes(tensor.shape, chosen[name])
            layout |= {f"{name.removesuffix('weight')}{part}": value for part, value in stored.items()}
        else:
            layout[name] = (tensor.dtype, tensor.shape)
    return layout


def _tensors(source: TensorFiles, names: Sequence[str], chosen: dict[str, Bits]) -> Iterator[Tensor]:
    for name in names:
        tensor = source.tensor(name, apart=True)
        if name in chosen:
            yield from parts(quantize(tensor, chosen[name])).values()
        else:
            yield tensor


def _tied_heads(model: PreTrainedModel) -> set[str]:
    """The names under which a file may hold the embedding a second time, as the output head."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {f"{name}.weight" for name, module in model.named_modules() if module is head and is_tied(model)}


def is_tied(model: PreTrainedModel) -> bool:
    return bool(model.config.get_text_config(decoder=True).tie_word_embeddings)
