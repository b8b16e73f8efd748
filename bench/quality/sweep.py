"""How well each pooling mode learns a persona: modes x learning rates x seeds, with PEFT's LoRA beside them.

Every cell trains on the same curated feedback of examples/mara, keeps its last step, and then answers prompts
that are not in it, decoded as the endpoint decodes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.child import call
from bench.models import ready_model
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store

METHODS = ("response+token", "response", "prompt", "sequence", "causal", "learned", "lora")
RATES = (1e-3, 2e-3)
LORA_RATES = (2e-4, 5e-4, 1e-3, 2e-3, 4e-3)  # more and higher ones: compared at its best, not its worst
SEEDS = "0,1,2"
STEPS = 30  # half of what a night takes: enough to learn, too few for every method to be perfect
KEY = ("method", "rate", "seed", "steps", "batch_size")
SCORES = ("fact_rate", "style_rate", "text_rise")


def quality_keys(
    methods: Sequence[str], rates: Sequence[float], seeds: Sequence[int], steps: int, batch_size: int
) -> list[tuple[Any, ...]]:
    """The cells of a sweep; without `rates` each method has its own."""
    return [
        (method, rate, seed, steps, batch_size)
        for seed, method in product(seeds, methods)
        for rate in rates or (LORA_RATES if method == "lora" else RATES)
    ]


def quality_runs(keys: Sequence[tuple[Any, ...]], models: Path) -> dict[tuple[Any, ...], Callable[[], Record]]:
    """The run of each cell, in a process and on a thread of its own."""
    ready = cache(partial(ready_model, "default", "float32", "cpu", models))

    def run(key: tuple[Any, ...]) -> Record:
        return dict(call("bench.quality.persona.run_cell", ready(), dict(zip(KEY, key, strict=True))))

    return {key: partial(run, key) for key in keys}


def quality_rows(newest: Newest) -> list[Row]:
    """Three scores for each method and rate, over the seeds."""
    groups: dict[tuple[str, float], list[Record]] = {}
    for cell in newest.values():
        groups.setdefault((cell["method"], cell["rate"]), []).append(cell)
    rows = []
    for (method, rate), cells in sorted(groups.items()):
        words = {"method": method, "rate": rate, "seeds": len(cells)}
        words |= {name: cells[0][name] for name in ("steps", "batch_size")}
        rows += [
            claimed(f"{score}/{{method}}/{{rate:g}}", [cell[score] for cell in cells], **words) for score in SCORES
        ]
    return rows


def _describe(cell: Record) -> str:
    scores = ", ".join(f"{name} {cell[name]:.3f}" for name in SCORES)
    return f"{cell['method']} at {cell['rate']:g}, seed {cell['seed']}: {scores}"


CELLS = Store("sweep-cells.jsonl", lambda cell: tuple(cell[name] for name in KEY), quality_rows, describe=_describe)
