"""A base model opened memory-mapped: its weights are pages of its files, shared with every process that opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lars_agent.errors import ConfigError, ModelCorrupt, ModelIncomplete, ModelUnsupported
from lars_agent.models.quantize import quantized_file, quantized_parts, tie_quantized, use_quantized
from lars_agent.models.weights import model_digest, require_config, weight_files
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.quantized import Bits
from lars_agent.ops.safetensors_io import TensorFiles

GENERATION_FILE = "generation_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHT_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to run and to adapt, its tokenizer, and what identifies it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    sha256: str


def open_model(
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    weight_bits: Bits | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> OpenedModel:
    """The base model in `folder`, frozen, in evaluation mode, computing in `dtype`.

    Weights stored in `dtype` are mapped, not read: a second process that opens them shares the pages. Weights of
    another dtype are converted into this process's own memory. With `weight_bits` the weights are mapped from a
    quantised file beside them, which is made the first time. `tokenizer` is the folder's own where it is open already:
    one takes 40 MB. Raises ModelNotFound, ModelIncomplete, ModelCorrupt or ModelUnsupported, and DiskFull or OSError
    where that file cannot be written.
    """
    files = weight_files(folder)
    tokenizer = tokenizer or open_tokenizer(folder)
    generation = open_generation_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with _parameters_on_meta():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnsupported(f"{folder} holds no decoder that transformers knows: {error}") from error
    digest = model_digest(folder, files)
    if weight_bits is not None:
        files = [_quantized(model, files, digest, weight_bits)]
        use_quantized(model, weight_bits, dtype)
    _assign(model, files, dtype)
    if generation is not None:
        _keep_end_tokens(generation, model.generation_config)
        model.generation_config = generation
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    use_grouped_attention(model)
    return OpenedModel(model, tokenizer, folder, digest)


def compute_dtype(name: str) -> torch.dtype:
    """The dtype that `name` (`auto`, `bfloat16`, `float32`, `int8` or `int4`) means on this machine for activations.

    `auto` is bfloat16 where the processor multiplies it natively, and float32 elsewhere: there bfloat16 halves the
    memory but is emulated, at a tenth of the speed. Weights of `int8` and `int4` are computed with as `auto` is. Raises
    ConfigError for another name.
    """
    if name == "auto" or name in WEIGHT_BITS:
        has_mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        native = has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"model.dtype must be auto or one of {', '.join([*DTYPES, *WEIGHT_BITS])}, not {name!r}")
    return DTYPES[name]


def precision(name: str) -> tuple[torch.dtype, Bits | None]:
    """What `name` means for `open_model`: the dtype to compute in, and the bits of the weights (None: that dtype).

    Raises ConfigError as `compute_dtype` does.
    """
    return compute_dtype(name), WEIGHT_BITS.get(name)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`. Raises ModelNotFound, ModelIncomplete, or ModelUnsupported without a chat template."""
    require_config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelIncomplete(f"{folder} lacks tokenizer.json; pull the model again, or copy the file there")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelUnsupported(f"the tokenizer in {folder} has no fast form; choose another model")
    if not tokenizer.chat_template:
        raise ModelUnsupported(f"the model in {folder} has no chat template; choose an instruct or chat model")
    return tokenizer


def open_generation_config(folder: Path) -> GenerationConfig | None:
    """What generation_config.json in `folder` says, the stop tokens above all; None where there is no such file.

    Raises ModelCorrupt.
    """
    path = folder / GENERATION_FILE
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelCorrupt(f"{path} cannot be read ({error}); pull the model again") from error


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, new modules' parameters take no memory; their buffers (rotary frequencies, scales) are real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _keep_end_tokens(generation: GenerationConfig, derived: GenerationConfig) -> None:
    """`generation` names the tokens that end a reply: its own, else those `derived` has from config.json."""
    if generation.eos_token_id is None:
        generation.eos_token_id = derived.eos_token_id


def _quantized(model: PreTrainedModel, files: list[Path], digest: str, bits: Bits) -> Path:
    """The file of quantised weights. Raises ModelCorrupt for weights that cannot be read."""
    try:
        return quantized_file(model, files, digest, bits)
    except SafetensorError as error:
        raise _unreadable(files[0].parent, error) from error


def _assign(model: PreTrainedModel, files: list[Path], dtype: torch.dtype) -> None:
    """The model's tensors are those of `files`: mapped, or, where they are of another dtype, converted one by one.

    Raises ModelCorrupt when they cannot be read or do not fit.
    """
    folder, parts = files[0].parent, quantized_parts(model)
    try:
        source = TensorFiles(files)
        tensors = {name: _tensor(source, name, None if name in parts else dtype) for name in source.names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(folder, error) from error
    try:
        model.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise ModelCorrupt(f"the weights in {folder} do not fit its config.json: {error}") from error
    if parts:
        tie_quantized(model)
    else:
        model.tie_weights()
    held = [*model.named_parameters(), *model.named_buffers()]
    missing = [name for name, tensor in held if tensor.is_meta]
    if missing:
        raise ModelIncomplete(f"the files in {folder} lack {len(missing)} weights, {missing[0]!r} first; pull it again")


def _tensor(source: TensorFiles, name: str, dtype: torch.dtype | None) -> Tensor:
    """The tensor, in `dtype` where it is a number with a fraction and `dtype` is not None."""
    tensor = source.tensor(name)
    if dtype in (None, tensor.dtype) or not tensor.is_floating_point():
        return tensor
    return source.tensor(name, apart=True).to(dtype)


def _unreadable(folder: Path, error: Exception) -> ModelCorrupt:
    return ModelCorrupt(f"the weights in {folder} cannot be read ({error}); pull the model again")
