"""Random jobs for the planner to predict."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MIB = 2**20
DTYPES = ("float32", "bfloat16", "int8", "int4")
REPLY = (8, 128)
BATCH = (1, 6)


@dataclass(frozen=True)
class Range:
    """What is drawn for a model, and how often it is drawn itself. Budgets reach from too small to more than enough."""

    context: tuple[int, int]
    budget_mib: tuple[int, int]
    weight: int


RANGES: Mapping[str, Range] = {
    "default": Range((32, 1536), (650, 2500), 6),
    "small-llama": Range((32, 2048), (550, 1500), 4),
    "small-qwen2": Range((32, 2048), (550, 1500), 4),
    "small-gemma": Range((32, 2048), (550, 1500), 4),
    "qwen2.5-0.5b": Range((32, 256), (900, 4000), 2),
    "llama-3.2-1b": Range((32, 128), (1400, 8000), 1),
}


@dataclass(frozen=True)
class PlannerCell:
    """One job: number `number` of the draw that `seed` begins. `batch` examples a step."""

    seed: int
    number: int
    model: str
    dtype: str
    context: int
    reply: int
    batch: int
    budget_bytes: int


def draw_cells(count: int, seed: int, models: Sequence[str], dtypes: Sequence[str]) -> Iterator[PlannerCell]:
    """The first `count` cells of the draw; the same for the same arguments, and a longer draw begins with them."""
    for number in range(count):
        dice = random.Random(f"{seed}/{number}")
        model = dice.choices(models, [RANGES[name].weight for name in models])[0]
        ranges = RANGES[model]
        yield PlannerCell(
            seed=seed,
            number=number,
            model=model,
            dtype=dice.choice(dtypes),
            context=_between(dice, ranges.context),
            reply=_between(dice, REPLY),
            batch=dice.randint(*BATCH),
            budget_bytes=_between(dice, ranges.budget_mib) * MIB,
        )


def _between(dice: random.Random, ends: tuple[int, int]) -> int:
    """Each doubling as likely as the next."""
    return round(math.exp(dice.uniform(*map(math.log, ends))))
