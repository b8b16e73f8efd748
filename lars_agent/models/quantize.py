"""Quantize a base model's weights to 8 or 4 bits, in a file that is created once and mapped when the model is opened.

Linear layers are quantized; embedding and output head to 8 bits at least (logits lose most by 4 bits), and so are
layers whose width is no multiple of 32. Norms, biases and embeddings of a special class (Gemma's scales its rows) are
not quantized. In 16 bits the model's own files are mapped.
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


def bits_of(model: PreTrainedModel, bits: Bits) -> dict[str, Bits]:
    """Return the bits of each module of `model` to quantize, by name."""
    chosen: dict[str, Bits] = {}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = is_tied(model)
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and module is embedding:
            chosen[name] = max(8, bits)
        elif type(module) is nn.Linear and not (module is head and tied):
            chosen[name] = max(8, bits) if module is head or module.in_features % BLOCK else bits
    return chosen


def quantized_files(model: PreTrainedModel, files: list[Path], digest: str, bits: Bits) -> list[Path]:
    """Return the files with the weights of `files` in `bits`: in 16 themselves, else one, created if missing.

    `model` may be on the meta device; `digest` is that of the weights. Raises DiskFull, or OSError if the folder is not
    writable.
    """
    if bits == 16:
        return files
    path = files[0].parent / f"model-int{bits}-{digest[:12]}.safetensors"
    if not path.is_file():
        source, repeated = TensorFiles(files), tied_head(model)
        names = [name for name in source.names if name not in repeated]
        chosen = {f"{name}.weight": size for name, size in bits_of(model, bits).items()}
        layout = _layout(source, names, chosen)
        write_atomically(path, tensor_file_of(layout, _tensors(source, names, chosen)))
    return [path]


def use_quantized(model: PreTrainedModel, bits: Bits, dtype: torch.dtype) -> None:
    """Replace the modules of `model` (on the meta device) by quantized ones with empty weights."""
    for name, size in bits_of(model, bits).items():
        module = model.get_submodule(name)
        shapes = stored_shapes(module.weight.shape, size)  # type: ignore[arg-type]
        matrix = QuantizedMatrix(**{part: torch.empty(s, dtype=d, device="meta") for part, (d, s) in shapes.items()})
        model.set_submodule(name, _module(module, matrix, dtype))


def quantize_in_place(model: PreTrainedModel, bits: Bits, dtype: torch.dtype) -> None:
    """Quantize the weights of a model in memory."""
    for name, size in bits_of(model, bits).items():
        module = model.get_submodule(name)
        matrix = quantize(module.weight.detach(), size)  # type: ignore[operator]
        model.set_submodule(name, _module(module, matrix, dtype))
    tie_quantized(model)


def tie_quantized(model: PreTrainedModel) -> None:
    """Make a tied output head share the weight of the loaded embedding."""
    embedding: Any = model.get_input_embeddings()
    if not is_tied(model):
        return
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(embedding, QuantizedEmbedding):
        model.set_output_embeddings(QuantizedLinear(embedding.matrix, head.bias, embedding.dtype))  # type: ignore[no-untyped-call]
    else:
        head.weight = embedding.weight


def quantized_parts(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """Return the names of the tensors of quantized weights, and their dtypes, which they must keep."""
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, Quantized)]
    return {f"{name}.{part}": tensor.dtype for name, module in modules for part, tensor in parts(module.matrix).items()}


def stored_names(model: PreTrainedModel, names: Sequence[str]) -> dict[str, str]:
    """Return the name in `model`, in 16 bits or whole, of each tensor `names` of a file; without a head that repeats
    the embedding.
    """
    repeated = tied_head(model)
    packed = {name for name, dtype in quantized_parts(model).items() if dtype == torch.bfloat16}
    found = {}
    for name in names:
        part = f"{name.removesuffix('weight')}packed"
        if name not in repeated:
            found[name] = part if part in packed else name
    return found


def tied_head(model: PreTrainedModel) -> set[str]:
    """Return the name of the output head's weight where it is the embedding's, which a file may repeat."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {f"{name}.weight" for name, module in model.named_modules() if module is head and is_tied(model)}


def head_is_quantized(model: PreTrainedModel, bits: Bits) -> bool:
    """Return True if the output head of `model`, or the embedding that it is tied to, is quantized."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight = embedding if is_tied(model) else head
    return any(model.get_submodule(name) is weight for name in bits_of(model, bits))


def _module(module: nn.Module, matrix: QuantizedMatrix, dtype: torch.dtype) -> nn.Module:
    """Return the quantized module that replaces `module`."""
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


def is_tied(model: PreTrainedModel) -> bool:
    """Return True if the output head of `model` shares the embedding's weight."""
    return bool(model.config.get_text_config(decoder=True).tie_word_embeddings)
