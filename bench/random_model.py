"""Models of a named config (bench/configs) with random weights: the sizes of others' papers, without their weights.

The weights are written once, as bfloat16 safetensors in shards, so that no more than one shard is ever in memory. The
tokenizer is the default model's: its vocabulary is smaller, so that all of its ids exist.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lars_agent.errors import ConfigError
from lars_agent.files import make_folder, publish_folder, write_atomically
from lars_agent.models.weights import INDEX_FILE, MODEL_FILE, weight_files, weights_digest

CONFIGS = Path(__file__).parent / "configs"
PREFIX = "random-"
SHARD_BYTES = 2**28  # a larger tensor is a shard of its own
SPREAD = 0.02  # the standard deviation of matrices
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def is_named_config(name: str) -> bool:
    return name in named_configs()


def named_configs() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def make_random_model(name: str, models: Path, tokenizer: Path) -> Path:
    """`<models>/random-<name>` is a model of that config; it is made if it is not there yet, whole or not at all."""
    folder = models / (PREFIX + name)
    if (folder / MODEL_FILE).is_file():
        return folder
    temp = models / f".{PREFIX}{name}.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    try:
        _fill(make_folder(temp), name, tokenizer)
        publish_folder(temp, folder)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return folder


def _fill(folder: Path, name: str, tokenizer: Path) -> None:
    shutil.copyfile(CONFIGS / f"{name}.json", folder / "config.json")
    for file in TOKENIZER_FILES:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, folder / file)
    _require_room(folder, name)
    _write_weights(folder)
    record = {
        "name": PREFIX + name,
        "reference": PREFIX + name,
        "revision": None,
        "sha256": weights_digest(weight_files(folder)),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "installed": "",
    }
    write_atomically(folder / MODEL_FILE, json.dumps(record, indent=2) + "\n")


def _require_room(folder: Path, name: str) -> None:
    """Raises ConfigError where the tokenizer knows ids that the model has no row for."""
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    highest = max([*words["model"]["vocab"].values(), *(token["id"] for token in words["added_tokens"])])
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if highest >= rows:
        raise ConfigError(f"config {name!r} has {rows:,} tokens, the tokenizer's highest id is {highest:,}")


def _write_weights(folder: Path) -> None:
    """The shards and their index; equal for equal configs."""
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(_shards(folder), start=1):
        shard = {name: _random(name, shape, generator) for name, shape in shapes.items()}
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_atomically(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def _shards(folder: Path) -> Iterator[dict[str, torch.Size]]:
    """Names and shapes of the parameters, tied ones once, in groups of at most `SHARD_BYTES` where they can be."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    shard: dict[str, torch.Size] = {}
    held = 0
    for name, parameter in model.named_parameters():
        if shard and held + parameter.nbytes > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = parameter.shape
        held += parameter.nbytes
    yield shard


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Norms are near one, biases zero, matrices normal."""
    if len(shape) < 2:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, SPREAD, generator=generator)
