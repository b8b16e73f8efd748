"""`lars-agent plan`: the plan of the next adaptation as a table and a bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.cli.output import OUT, print_text, table

BAR_WIDTH = 40
WHOLE = {"prompt_chunk": 512, "loss_chunk": 32}  # tokens at once: the defaults, which are not shown
LEAST_GAIN = 0.03  # of memory, that a plan in the table saves against the one above it
TERMS = {
    "program": "Python, torch, tokenizer",
    "weights": "the base model's weights",
    "adapter": "the adapter",
    "gradients": "its gradients",
    "optimizer": "AdamW's moments",
    "kv_cache": "keys and values of the prompt",
    "pooled": "pooled vectors",
    "activations": "what autograd keeps",
    "scratch": "scratch of the largest piece of work",
    "kept_prompts": "prompts that are read once and kept",
}


def show(plan: dict[str, Any]) -> None:
    """Print the reply of `POST /jobs?dry_run=true`."""
    shown = plan["chosen"] or plan["ladder"][-1]
    if plan["error"]:
        print_text(plan["error"], style="red")
    peak_bytes = shown["predicted_peak_bytes"]
    terms = [(term, TERMS.get(term, ""), f"{size / 2**20:,.0f}") for term, size in shown["estimate"].items()]
    terms.append(("peak", "predicted", f"{peak_bytes / 2**20:,.0f}"))
    OUT.print(table(("term", "what it is", "MiB"), terms, right=[2]))
    print_text(_bar(peak_bytes, plan["budget_bytes"]))
    OUT.print(table(("", "needs", "peak", "a step", "", "how"), _ladder(plan["ladder"], shown), right=range(1, 5)))


def _bar(peak: int, budget: int | None) -> str:
    if budget is None:
        return f"{peak / 2**20:,.0f} MiB, no budget"
    filled = min(BAR_WIDTH, round(BAR_WIDTH * peak / budget))
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    return f"[{bar}] {peak / budget:.0%} of the {budget / 2**20:,.0f} MiB that the budget leaves for training"


def _ladder(ladder: list[dict[str, Any]], shown: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the plans for smaller budgets, without those that save next to nothing."""
    last: int | None = None
    for planned in ladder:
        chosen, peak = planned["plan"] == shown["plan"], planned["predicted_peak_bytes"]
        if last is not None and peak > (1 - LEAST_GAIN) * last and not chosen and planned is not ladder[-1]:
            continue
        last = peak
        yield (
            "*" if chosen else "",
            f"{planned['least_budget_bytes'] / 2**20:,.0f} MiB",
            f"{peak / 2**20:,.0f} MiB",
            f"{planned['step_seconds']:,.1f} s",
            f"{planned['relative_time']:.2f} x",
            _words(planned["plan"]),
        )


def _words(plan: dict[str, Any]) -> str:
    kept = {"int8": "activations in 8 bits", "disk": "activations on disk"}
    parts = [
        f"{plan['micro_batch']} at once",
        "layers recomputed" if plan["recompute"] else "",
        kept.get(plan["saved"], ""),
        f"prompt by {plan['prompt_chunk']}" if plan["prompt_chunk"] < WHOLE["prompt_chunk"] else "",
        f"loss by {plan['loss_chunk']}" if plan["loss_chunk"] < WHOLE["loss_chunk"] else "",
        f"MLP by {plan['mlp_tile']}" if plan["mlp_tile"] else "",
        "moments in 8 bits" if plan["optimizer_bits"] == 8 else "",
        "prompts kept" if plan["kept_prompts"] else "",
    ]
    return ", ".join(part for part in parts if part)
