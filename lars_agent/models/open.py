"""Open a base model memory-mapped, its weights shared with every other process that opens it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
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
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lars_agent.errors import ModelCorrupt, ModelIncomplete, ModelUnsupported
from lars_agent.example import Message
from lars_agent.models.chat_template import render_chat
from lars_agent.models.quantize import quantized_files, quantized_parts, stored_names, tie_quantized, use_quantized
from lars_agent.models.template_limits import require_no_power
from lars_agent.models.weights import model_digest, refuse_quantized, require_config, weight_files
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.quantized import Bits
from lars_agent.ops.safetensors_io import TensorFiles

GENERATION_FILE = "generation_config.json"
# The largest sizes that are believed, some times those of any model that fits a device: none is allocated before.
LARGEST = {"num_hidden_layers": 1024, "hidden_size": 2**17, "intermediate_size": 2**20, "vocab_size": 2**22}
LARGEST |= {"num_attention_heads": 2**12, "num_key_value_heads": 2**12, "head_dim": 2**14, "n_positions": 2**15}
LARGEST |= {"max_position_embeddings": 2**27, "n_inner": 2**20}
PROBE = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello!"),
    Message(role="user", content="Who are you?"),
)
READ = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to run and to adapt, its tokenizer, and the digest of its weights."""

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
    """Open the base model in `folder`, frozen, in evaluation mode, computing in `dtype`.

    Weights stored in `dtype` are mapped and shared between processes; those of another dtype are converted into private
    memory. With `weight_bits` they are mapped from a quantized file in `folder`, created the first time; in 16 bits
    from the model's own, if stored in bfloat16. Pass `tokenizer` if it is open already: it takes 40 MB. Raises
    ModelNotFound, ModelIncomplete, ModelCorrupt, ModelUnsupported, and DiskFull or OSError if the quantized file cannot
    be written.
    """
    files = weight_files(folder)
    model = empty_model(folder, dtype)
    tokenizer = tokenizer or open_tokenizer(folder)
    generation = open_generation_config(folder)
    digest = model_digest(folder, files)
    if weight_bits is not None:
        try:
            files = quantized_files(model, files, digest, weight_bits)
        except SafetensorError as error:
            raise _unreadable(folder, error) from error
        use_quantized(model, weight_bits, dtype)
    _assign(model, files, dtype)
    if generation is not None:
        if generation.eos_token_id is None:  # then that of config.json
            generation.eos_token_id = model.generation_config.eos_token_id
        model.generation_config = generation
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    use_grouped_attention(model)
    return OpenedModel(model, tokenizer, folder, digest)


def empty_model(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return the model of config.json in `folder` with parameters on the meta device. Raises ModelUnsupported."""
    refuse_quantized(folder)
    config = open_config(folder)
    try:
        with _parameters_on_meta():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    except Exception as error:  # what transformers' many models raise for numbers that do not fit has no common base
        raise _unknown(folder, error) from error
    return model


def untaken(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Return the tensors of a checkpoint that `model` does not take and that transformers does not ignore either."""
    taken = {*model.state_dict(), *(name for name, _ in model.named_buffers())}
    patterns = [
        pattern
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for pattern in module._keys_to_ignore_on_load_unexpected or ()
    ]
    return [name for name in names if name not in taken and not any(re.search(one, name) for one in patterns)]


def unsupported_tensors(names: Sequence[str], folder: Path) -> ModelUnsupported:
    """Return the error for tensors in `folder` that the model does not take."""
    return ModelUnsupported(
        f"the files in {folder} hold {len(names)} tensors that the model of its config.json does not take, "
        f"{names[0]!r} first; if they are quantized, choose the model's whole weights, else pull the model again"
    )


def open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Open the tokenizer in `folder`. Raises ModelNotFound, ModelIncomplete, ModelUnsupported (no chat template)."""
    require_config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelIncomplete(f"{folder} lacks tokenizer.json; pull the model again, or copy the file there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the readers of damaged files have no common base
        raise ModelCorrupt(
            f"the tokenizer in {folder} cannot be opened ({error!r:.200}); pull the model again"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelUnsupported(f"the tokenizer in {folder} has no fast form; choose another model")
    if not tokenizer.chat_template:
        raise ModelUnsupported(f"the model in {folder} has no chat template; choose an instruct or chat model")
    try:
        require_no_power(str(tokenizer.get_chat_template()))
        render_chat(tokenizer, PROBE, reply_follows=True)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ModelUnsupported(f"the chat template in {folder} refuses a plain conversation: {error}") from error
    return tokenizer


def open_config(folder: Path) -> PretrainedConfig:
    """Read config.json in `folder`. Raises ModelUnsupported, also for sizes that no model has."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except Exception as error:  # the readers of damaged files have no common base
        raise _unknown(folder, error) from error
    text = config.get_text_config()
    for name, largest in LARGEST.items():
        size = getattr(text, name, None)
        if isinstance(size, int | float) and not 0 < size <= largest:
            raise ModelUnsupported(
                f"{folder / 'config.json'} says {name} {size:,}; 1 to {largest:,} can be opened; choose another model"
            )
    return config


def _unknown(folder: Path, error: Exception) -> ModelUnsupported:
    reason = str(error).partition("\n")[0]
    return ModelUnsupported(f"{folder} holds no decoder that transformers knows: {reason}")


def open_generation_config(folder: Path) -> GenerationConfig | None:
    """Read generation_config.json in `folder`; None if there is no such file. Raises ModelCorrupt."""
    path = folder / GENERATION_FILE
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelCorrupt(f"{path} cannot be read ({error}); pull the model again") from error


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Create new modules' parameters on the meta device; buffers (rotary frequencies, scales) stay real."""
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


def _assign(model: PreTrainedModel, files: list[Path], dtype: torch.dtype) -> None:
    """Assign the tensors of `files` to the model, mapped, or converted one by one if of another dtype.

    Raises ModelCorrupt if they cannot be read or do not fit, ModelIncomplete if some are missing.
    """
    folder, parts = files[0].parent, quantized_parts(model)
    try:
        source = TensorFiles(files)
        names = stored_names(model, source.names)
        if unknown := untaken(model, names.values()):
            raise unsupported_tensors(unknown, folder)
        tensors = {own: _tensor(source, name, parts.get(own, dtype)) for name, own in names.items()}
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
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    missing = [name for name, tensor in tensors.items() if tensor.is_meta]
    if missing:
        raise ModelIncomplete(f"the files in {folder} lack {len(missing)} weights, {missing[0]!r} first; pull it again")


def _tensor(source: TensorFiles, name: str, dtype: torch.dtype) -> Tensor:
    """Return the tensor, converted to `dtype` if it is floating-point."""
    tensor = source.tensor(name)
    if tensor.is_floating_point() and tensor.dtype not in READ:
        raise ModelUnsupported(f"the weight {name!r} is stored as {tensor.dtype}, which cannot be read; choose others")
    if dtype == tensor.dtype or not tensor.is_floating_point():
        return tensor
    return source.tensor(name, apart=True).to(dtype)


def _unreadable(folder: Path, error: Exception) -> ModelCorrupt:
    return ModelCorrupt(f"the weights in {folder} cannot be read ({error}); pull the model again")
