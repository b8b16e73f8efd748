"""Save and load adapters: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible, ConfigError, StateMismatch
from lars_agent.files import open_plain, read_plain, write_atomically
from lars_agent.lars.config import LarsConfig
from lars_agent.lars.inject import LarsAdapter
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.records import from_json, parse_json, to_dict

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_TYPE = "LARS"
LARGEST = 1e6  # of an adapter's numbers; trained ones are below 100


def adapter_tensors(adapter: LarsAdapter) -> dict[str, Tensor]:
    """Return the adapter's tensors, not copied, keyed `<layer name>.<parameter>`."""
    return {
        f"{name}.{key}": tensor.detach()
        for name, layer in adapter.by_name.items()
        for key, tensor in layer.state_dict(keep_vars=True).items()
    }


def load_state(adapter: LarsAdapter, state: dict[str, Tensor]) -> None:
    """Copy `state` into the adapter. Raises StateMismatch, with nothing copied, if keys or shapes differ."""
    own = _matching(adapter, state)
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def _matching(adapter: LarsAdapter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapter's tensors. Raises StateMismatch unless `state` has the same keys and shapes."""
    own = adapter_tensors(adapter)
    for key in sorted(own.keys() ^ state.keys()):
        raise StateMismatch(f"adapter tensor {key!r} is {'missing' if key in own else 'not part of this adapter'}")
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            raise StateMismatch(
                f"adapter tensor {key!r} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
            )
    return own


def require_sane(state: Mapping[str, Tensor]) -> None:
    """Raise StateMismatch for a tensor with numbers that no training makes: NaN, infinite or enormous ones."""
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise StateMismatch(f"adapter tensor {key!r} has numbers of type {tensor.dtype}, not floating-point ones")
        largest = tensor.detach().abs().amax().item() if tensor.numel() else 0.0
        if not largest <= LARGEST:  # nor NaN
            raise StateMismatch(f"adapter tensor {key!r} has the number {largest:g}; at most {LARGEST:g} makes sense")


def save_adapter(adapter: LarsAdapter, folder: Path, *, base_model: str, revision: str | None) -> None:
    """Write the adapter to `folder`, each file atomically; the config has PEFT's common fields and `LarsConfig`'s.

    Raises StateMismatch, and writes nothing, for numbers that `load_adapter` refuses.
    """
    require_sane(adapter_tensors(adapter))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, tensor_file(adapter_tensors(adapter)))
    common = {
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base_model,
        "revision": revision,
    }
    write_atomically(folder / CONFIG_FILE, json.dumps(common | to_dict(adapter.config), indent=2) + "\n")


def read_config(folder: Path) -> LarsConfig:
    """Return the LARS config in `folder`. Raises AdapterCorrupt or AdapterIncompatible."""
    path = folder / CONFIG_FILE
    try:
        values = parse_json(read_plain(path, follow=False))
    except (OSError, ValueError) as error:
        raise AdapterCorrupt(f"{path} cannot be read ({error}); activate another version") from error
    if not isinstance(values, dict) or values.get("peft_type") != PEFT_TYPE:
        raise AdapterIncompatible(f"{path} is not of peft_type {PEFT_TYPE!r}")
    common = {"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision"}
    return from_json(LarsConfig, {key: values[key] for key in values.keys() - common}, AdapterIncompatible, source=path)


def load_adapter(model: PreTrainedModel, folder: Path) -> LarsAdapter:
    """Load the adapter in `folder` for `model`, frozen and in evaluation mode.

    Raises AdapterCorrupt for an unreadable file, AdapterIncompatible for an adapter of another model.
    """
    config = read_config(folder)
    try:
        with open_plain(folder / WEIGHTS_FILE, follow=False):
            state = read_tensors(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise AdapterCorrupt(f"{folder / WEIGHTS_FILE} cannot be read ({error}); activate another version") from error
    try:
        with torch.device("meta"):  # skip random initialization
            adapter = LarsAdapter.for_model(model, config)
        _matching(adapter, state)
    except (StateMismatch, ConfigError) as error:
        raise AdapterIncompatible(f"{folder} was made for another base model: {error}") from error
    try:
        require_sane(state)
    except StateMismatch as error:
        raise AdapterCorrupt(f"{folder / WEIGHTS_FILE}: {error}; activate another version") from error
    for name, layer in adapter.by_name.items():
        own = {key: state[f"{name}.{key}"].clone() for key in layer.state_dict()}
        layer.load_state_dict(own, assign=True)
    return adapter.eval().requires_grad_(False)
