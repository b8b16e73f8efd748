"""Checkpoints of a training run, from which it continues exactly.

    checkpoint-N/state.safetensors   adapter, AdamW's moments, torch's RNG state
    checkpoint-N/best.safetensors    the best adapter at that step, a hard link to the trainer's file
    checkpoint-N/progress.json       step (the position in the data and the schedule), losses, sha256s

Nothing is pickled or copied in memory. The newest two are kept; `resume` skips an incomplete or damaged one.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from lars_agent.errors import JobInvalid
from lars_agent.files import publish_folder, raise_disk_full, read_plain, sha256_of, write_atomically
from lars_agent.lars.state import adapter_tensors, load_state
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.records import from_json, parse_json
from lars_agent.training.trainer import BEST_FILE, Progress, Trainer

STATE_FILE, PROGRESS_FILE = "state.safetensors", "progress.json"
PREFIX = "checkpoint-"
KEEP = 2


def save_checkpoint(trainer: Trainer, folder: Path) -> Path:
    """Save the trainer's step in `folder`, keep at most one older checkpoint, and return its path. Raises DiskFull."""
    final = folder / f"{PREFIX}{trainer.progress.step}"
    if final.exists():
        return final
    temp = folder / f".{final.name}.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    tensors = {f"adapter/{key}": value for key, value in adapter_tensors(trainer.adapter).items()}
    tensors |= {f"optimizer/{key}": value for key, value in trainer.optimizer.state().items()}
    with raise_disk_full(final), (temp / STATE_FILE).open("xb") as file:
        file.writelines(tensor_file(tensors | {"rng": torch.get_rng_state()}))
    os.link(trainer.best_file, temp / BEST_FILE)
    digests = {name: sha256_of(temp / name) for name in (STATE_FILE, BEST_FILE)}
    write_atomically(temp / PROGRESS_FILE, json.dumps(asdict(trainer.progress) | {"sha256": digests}))
    publish_folder(temp, final)
    for old in checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda path: -int(path.name.removeprefix(PREFIX)))


def resume(trainer: Trainer, folder: Path) -> Path | None:
    """Restore the trainer from the newest intact checkpoint in `folder`, and return its path, or None without one."""
    for path in checkpoints(folder):
        try:
            if (progress := _verified(path)) is None:
                continue
            tensors = read_tensors(path / STATE_FILE)
        except (OSError, SafetensorError):  # as after a checkpoint cut off
            continue
        load_state(trainer.adapter, _under("adapter/", tensors))
        trainer.optimizer.load(_under("optimizer/", tensors))
        trainer.best_file.unlink(missing_ok=True)
        os.link(path / BEST_FILE, trainer.best_file)
        trainer.progress = progress
        torch.set_rng_state(tensors["rng"].clone())
        return path
    return None


def _verified(path: Path) -> Progress | None:
    """Return the progress recorded in the checkpoint `path`, or None if it is incomplete or damaged."""
    try:
        record = parse_json(read_plain(path / PROGRESS_FILE))
        digests = record.pop("sha256")
        if any(sha256_of(path / name) != digests[name] for name in (STATE_FILE, BEST_FILE)):
            return None
        return from_json(Progress, record, JobInvalid)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, JobInvalid):
        return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
