"""Random prompts and replies of a cell's lengths."""

from __future__ import annotations

import torch

from bench.cell import Cell
from lars_agent.training.batches import Encoded

FIRST_PLAIN_ID = 100  # those below are often special


def example(cell: Cell, vocabulary: int) -> Encoded:
    """The one example that all of the cell's steps learn; the same for every method."""
    generator = torch.Generator("cpu").manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(FIRST_PLAIN_ID, vocabulary, (count,), generator=generator, device="cpu").tolist())

    return Encoded(ids(cell.context), ids(cell.reply), 1.0, "random")
