"""The files of a base model's weights, and the digest that identifies them. No torch here: the daemon has none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelIncomplete, ModelNotFound
from lars_agent.files import sha256_of

__all__ = [
    "INDEX_FILE",
    "MODEL_FILE",
    "SINGLE_FILE",
    "model_digest",
    "require_config",
    "weight_files",
    "weights_digest",
]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MODEL_FILE = "model.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in `folder`. Raises ModelNotFound, or ModelIncomplete that names the files."""
    require_config(folder)
    names = [SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelCorrupt(f"{folder / INDEX_FILE} cannot be read ({error}); pull the model again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelIncomplete(
            f"{folder} lacks {', '.join(missing)}; pull the model again, or copy the missing files there"
        )
    return [folder / name for name in names]


def require_config(folder: Path) -> None:
    """Raises ModelNotFound where `folder` holds no model."""
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no model (no config.json); run: lars-agent model pull default")


def model_digest(folder: Path, files: list[Path]) -> str:
    """The digest that identifies the weights: from model.json where the library recorded it, else computed."""
    recorded = folder / MODEL_FILE
    if recorded.is_file():
        return str(json.loads(recorded.read_text(encoding="utf-8"))["sha256"])
    return weights_digest(files)


def weights_digest(files: list[Path]) -> str:
    """sha256 over one line, name and sha256, per weight file in order of names."""
    lines = [f"{path.name} {sha256_of(path)}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
