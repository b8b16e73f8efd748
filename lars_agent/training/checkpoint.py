"""Checkpoints of a training run: all that is needed to go on as if nothing had happened.

    checkpoint-N/state.safetensors   adapter, its best step, AdamW's moments, torch's RNG state
    checkpoint-N/progress.json       step (which is also the place in the data and the schedule), losses, sha256

Nothing is pickled. The newest two are kept; one that is torn or damaged is passed over for the one before.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from lars_agent.files import publish_folder, sha256_of
from lars_agent.lars.state import adapter_state, load_state
from lars_agent.training.loop import Progress, Trainer

STATE_FILE, PROGRESS_FILE = "state.safetensors", "progress.json"
PREFIX = "checkpoint-"
KEEP = 2


def save_checkpoint(trainer: Trainer, folder: Path) -> Path:
    """`folder` holds a checkpoint of the trainer's step, and at most one older one. Raises DiskFull."""
    final = folder / f"{PREFIX}{trainer.progress.step}"
    if final.exists():
        return final
    temp = folder / f".{final.name}.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    (temp / STATE_FILE).write_bytes(save_bytes(_tensors(trainer)))
    record = asdict(trainer.progress) | {"best_state": None, "sha256": sha256_of(temp / STATE_FILE)}
    (temp / PROGRESS_FILE).write_text(json.dumps(record), encoding="utf-8")
    publish_folder(temp, final)
    for old in checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda path: -int(path.name.removeprefix(PREFIX)))


def resume(trainer: Trainer, folder: Path) -> Path | None:
    """The trainer stands where the newest sound checkpoint in `folder` stood; returns it, None if there is none."""
    for path in checkpoints(folder):
        record = _read(path)
        if record is not None:
            _restore(trainer, *record)
            return path
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The record and tensors of the checkpoint `path`, or None if it is torn or damaged."""
    try:
        record = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        if sha256_of(path / STATE_FILE) != record.pop("sha256"):
            return None
        return record, load_bytes((path / STATE_FILE).read_bytes())
    except (OSError, ValueError, KeyError):
        return None


def _tensors(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {f"adapter/{key}": value for key, value in adapter_state(trainer.adapter).items()}
    tensors |= {f"best/{key}": value for key, value in trainer.progress.best_state.items()}
    tensors |= {f"optimizer/{key}": value for key, value in trainer.optimizer.state().items()}
    return tensors | {"rng": torch.get_rng_state()}


def _restore(trainer: Trainer, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    load_state(trainer.adapter, _under("adapter/", tensors))
    trainer.optimizer.load(_under("optimizer/", tensors))
    trainer.progress = Progress(**record | {"best_state": _under("best/", tensors)})
    torch.set_rng_state(tensors["rng"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
