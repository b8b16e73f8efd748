"""Facts about an installed base model that its files tell without torch, which the daemon must not import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lars_agent.errors import ModelError
from lars_agent.files import read_plain
from lars_agent.models.weights import weight_files
from lars_agent.records import parse_json

MOST_HEADER_BYTES = 100_000_000  # as safetensors has it
# Names of a size in config.json; older families have names of their own.
SIZES: Mapping[str, tuple[str, ...]] = {
    "context": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head"),
    "key_heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class ModelFacts:
    """The architecture, such as `llama`, its sizes by the names of `SIZES`, and the number of parameters.

    What the files do not tell is left out: an empty architecture, a size that is missing, 0 parameters.
    """

    architecture: str
    sizes: Mapping[str, int]
    parameters: int


@lru_cache(maxsize=4)
def facts_of(folder: Path, sha256: str) -> ModelFacts:
    """Return the facts about the model in `folder`, whose weights have the digest `sha256`."""
    try:
        config = parse_json(read_plain(folder / "config.json"))
        text = config | (config.get("text_config") or {})
        sizes = {name: _first(text, keys) for name, keys in SIZES.items()}
        architecture = str(config.get("model_type", ""))
    except (OSError, ValueError, TypeError, AttributeError):
        return ModelFacts("", {}, 0)
    return ModelFacts(architecture, {name: size for name, size in sizes.items() if size}, _parameters(folder))


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    found = (values[key] for key in keys if type(values.get(key)) is int and values[key] > 0)
    return next(found, 0)


def _parameters(folder: Path) -> int:
    """Return the number of parameters in the weight files, from their headers alone; 0 if they cannot be read."""
    try:
        return sum(math.prod(shape) for path in weight_files(folder) for shape in _shapes(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ModelError):
        return 0


def _shapes(path: Path) -> list[list[int]]:
    """Return the shapes of the tensors in a safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER_BYTES:
            raise ValueError(f"{path} has a header of {size:,} bytes")
        header = parse_json(file.read(size))
    return [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
