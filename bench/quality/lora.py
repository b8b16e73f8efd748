"""LARS beside PEFT's LoRA: the same facts, corrected once, by the weights alone, whatever they are about.

Both read the same examples in the same wordings and order, rehearse the same text and take as many steps; LoRA is
compared at the best of its rates. Neither is helped by recall, or closed for questions about somebody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.child import call
from bench.quality.once import KINDS
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store

LARS, LORA = "response+token", "lora"
RATES = {LARS: (2e-3,), LORA: (1e-3, 2e-3, 4e-3)}


def cells(count: int, steps: int, seed: int) -> list[Record]:
    """LARS at its default rate, and LoRA at each of several."""
    same = {"facts": count, "steps": steps, "seed": seed}
    return [{"method": method, "rate": rate, **same} for method, rates in RATES.items() for rate in rates]


def measure_cell(model: Path, cell: Record) -> dict[str, Any]:
    """Train and ask in a process of its own."""
    return dict(call("bench.quality.lora_cell.run_cell", model, cell))


def lora_rows(newest: Newest) -> list[Row]:
    """Each method at the rate with which it has most facts right, and the difference."""
    groups: dict[tuple[int, int], dict[tuple[str, float], list[Record]]] = {}
    for found in newest.values():
        methods = groups.setdefault((found["facts"], found["steps"]), {})
        methods.setdefault((found["method"], found["rate"]), []).append(found)
    rows = []
    for (count, steps), methods in sorted(groups.items()):
        words = {"facts": count, "steps": steps}
        best: dict[str, list[Record]] = {}
        for (method, _), found in methods.items():
            best[method] = max(best.get(method, []), found, key=lambda runs: sum(one["unseen"] for one in runs))
        for method, found in best.items():
            for score in (*KINDS, "text_rise", "cpu_seconds", "peak_bytes"):
                named = {**words, "method": method, "rate": found[0]["rate"], "seeds": len(found), "score": score}
                rows.append(claimed(_claim(score), [one[score] for one in found], **named))
        if len(best) == len(RATES):
            pairs = zip(best[LARS], best[LORA], strict=False)
            values = [ours["unseen"] - theirs["unseen"] for ours, theirs in pairs]
            rows.append(claimed("lars_minus_lora_recall", values, **words, rate=best[LORA][0]["rate"]))
    return rows


def _claim(score: str) -> str:
    """The claim of a score, by its unit and what is better."""
    name = {"text_rise": "text_rise", "cpu_seconds": "cpu_s", "peak_bytes": "peak_bytes"}.get(score, "{score}")
    return f"against_lora_{name}/{{method}}/{{facts}}"


AGAINST_LORA = Store(
    "quality-lora.jsonl",
    key=lambda cell: tuple(cell[name] for name in ("method", "rate", "facts", "steps", "seed")),
    rows=lora_rows,
    shown=("method", "rate", "facts", "steps", "seed", *KINDS, "text_rise"),
)
