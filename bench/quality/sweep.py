"""How well each pooling mode learns a persona: modes x learning rates x seeds, with PEFT's LoRA beside them.

Every cell trains on the same curated feedback of examples/mara, keeps its last step, and then answers prompts
that are not in it, decoded as the endpoint decodes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

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


def cells(methods: Sequence[str], rates: Sequence[float], seeds: Sequence[int], **more: int) -> Iterator[Record]:
    """The cells of a sweep; without `rates` each method has its own."""
    for seed, method in product(seeds, methods):
        for rate in rates or (LORA_RATES if method == "lora" else RATES):
            yield {"method": method, "rate": rate, "seed": seed, **more}


def run(cell: Record, models: Path) -> Record:
    """Train and score the cell in a process and on a thread of its own."""
    return dict(call("bench.quality.persona.run_cell", ready_model("default", "float32", "cpu", models), cell))


def quality_rows(newest: Newest) -> list[Row]:
    """Three scores for each method and rate, over the seeds."""
    groups: dict[tuple[str, float], list[Record]] = {}
    for cell in newest.values():
        groups.setdefault((cell["method"], cell["rate"]), []).append(cell)
    rows = []
    for _, cells in sorted(groups.items()):
        words = {**cells[0], "seeds": len(cells)}
        for score in SCORES:
            rows.append(claimed(f"{score}/{{method}}/{{rate:g}}", [cell[score] for cell in cells], **words))
    return rows


CELLS = Store("sweep-cells.jsonl", lambda cell: tuple(cell[name] for name in KEY), quality_rows, (*KEY, *SCORES))
