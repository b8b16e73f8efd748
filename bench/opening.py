"""A base model as a cell needs it: opened in the cell's dtype, on its device, wholly resident, and ready to serve."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from torch import nn

from bench.cell import Cell
from lars_agent.memory.allocator import give_back
from lars_agent.models.open import OpenedModel, open_model, precision

PAGE_BYTES = 4096


def opened_for(cell: Cell, folder: Path) -> OpenedModel:
    """The model, all its weights resident, after one token: what operators take at their first call is there."""
    opened = open_model(folder, *precision(cell.dtype))
    if cell.attention == "transformers":
        opened.model.set_attn_implementation("sdpa")
    if cell.device != "cpu":
        opened.model.to(cell.device)
    touch(opened.model)
    with torch.no_grad():
        opened.model(torch.ones(1, 1, dtype=torch.long, device=cell.device))
    give_back()
    return opened


def touch(model: nn.Module) -> None:
    """Every page of the weights has been read once: mapped files are resident as they will be while computing."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_contiguous() and tensor.device.type == "cpu" and tensor.numel():
            tensor.detach().reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()
