"""Weight files of a base model and their digest. Without torch, which the daemon must not import."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelIncomplete, ModelNotFound, ModelUnsupported
from lars_agent.files import read_plain, sha256_of
from lars_agent.records import parse_json

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MODEL_FILE = "model.json"
QUANTIZED = "quantization_config"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the model in `folder`. Raises ModelNotFound, ModelIncomplete, ModelCorrupt."""
    require_config(folder)
    names = index_names(folder) if (folder / INDEX_FILE).is_file() else [SINGLE_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelIncomplete(
            f"{folder} lacks {', '.join(missing)}; pull the model again, or copy the missing files there"
        )
    return [folder / name for name in names]


def index_names(folder: Path) -> list[str]:
    """Return the names of the weight files that the index in `folder` lists. Raises ModelCorrupt."""
    try:
        names = sorted(set(parse_json(read_plain(folder / INDEX_FILE))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelCorrupt(f"{folder / INDEX_FILE} cannot be read ({error}); pull the model again") from error
    if strange := [name for name in names if Path(name).name != name]:
        raise ModelCorrupt(f"{folder / INDEX_FILE} names {strange[0]!r:.80}, no file of its folder; pull it again")
    return names


def require_config(folder: Path) -> None:
    """Raise ModelNotFound if `folder` holds no model."""
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no model (no config.json); run: lars-agent model pull default")


def refuse_quantized(folder: Path) -> None:
    """Raise ModelUnsupported if config.json in `folder` says that the weights are quantized, ModelCorrupt if it cannot
    be read. Weights are quantized here, from whole ones (`model.dtype`).
    """
    path = folder / "config.json"
    try:
        config = parse_json(read_plain(path))
        method = (config.get(QUANTIZED) or (config.get("text_config") or {}).get(QUANTIZED) or {}).get("quant_method")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelCorrupt(f"{path} cannot be read ({error}); pull the model again") from error
    if method is not None:
        raise ModelUnsupported(
            f"the weights are quantized by {method!r} (quantization_config in {path.name}), which cannot be read; "
            "choose the model's whole weights, and model.dtype int8 or int4 to quantize them here"
        )


def model_digest(folder: Path, files: list[Path]) -> str:
    """Return the digest of the weights: that recorded in model.json, else computed."""
    recorded = folder / MODEL_FILE
    if recorded.is_file():
        return str(parse_json(read_plain(recorded))["sha256"])
    return weights_digest(files)


def weights_digest(files: list[Path]) -> str:
    """Return the sha256 of one line, name and sha256, for each weight file in order of names."""
    lines = [f"{path.name} {sha256_of(path)}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
