"""`lars-agent plan`: how the next adaptation would keep its memory budget, as a table and a bar."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

BAR_WIDTH = 40
WHOLE = {"prompt_chunk": 512, "loss_chunk": 32}  # tokens at once that nobody need be told of
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
}


def show(plan: dict[str, Any], out: Console) -> None:
    """The answer of `POST /jobs?dry_run=true`, for people."""
    budget = plan["budget_bytes"]
    shown = plan["chosen"] or plan["ladder"][-1]
    if plan["error"]:
        out.print(plan["error"], style="red", markup=False, highlight=False, soft_wrap=True)
    out.print(_terms(shown))
    out.print(_bar(shown["predicted_peak_bytes"], budget), markup=False, highlight=False, soft_wrap=True)
    out.print(_ladder(plan["ladder"], shown))


def _terms(planned: dict[str, Any]) -> Table:
    table = Table("term", "what it is", "MiB")
    table.columns[2].justify = "right"
    for term, size in planned["estimate"].items():
        table.add_row(term, TERMS.get(term, ""), f"{size / 2**20:,.0f}")
    table.add_section()
    table.add_row("peak", "predicted", f"{planned['predicted_peak_bytes'] / 2**20:,.0f}")
    return table


def _bar(peak: int, budget: int | None) -> str:
    if budget is None:
        return f"{peak / 2**20:,.0f} MiB, no budget"
    filled = min(BAR_WIDTH, round(BAR_WIDTH * peak / budget))
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    return f"[{bar}] {peak / budget:.0%} of the {budget / 2**20:,.0f} MiB that the budget leaves for training"


def _ladder(ladder: list[dict[str, Any]], shown: dict[str, Any]) -> Table:
    """What smaller budgets would cost in time; plans that save next to nothing are left out."""
    table = Table("", "needs", "peak", "a step", "", "how")
    for column in table.columns[1:5]:
        column.justify = "right"
    last: int | None = None
    for planned in ladder:
        chosen, peak = planned["plan"] == shown["plan"], planned["predicted_peak_bytes"]
        if last is not None and peak > (1 - LEAST_GAIN) * last and not chosen and planned is not ladder[-1]:
            continue
        last = peak
        table.add_row(
            "*" if chosen else "",
            f"{planned['least_budget_bytes'] / 2**20:,.0f} MiB",
            f"{peak / 2**20:,.0f} MiB",
            f"{planned['step_seconds']:,.1f} s",
            f"{planned['relative_time']:.2f} x",
            _words(planned["plan"]),
        )
    return table


def _words(plan: dict[str, Any]) -> str:
    """The levers of a plan, for people."""
    kept = {"int8": "activations in 8 bits", "disk": "activations on disk"}
    words = [
        f"{plan['micro_batch']} at once",
        "layers recomputed" if plan["recompute"] else "",
        kept.get(plan["saved"], ""),
        f"prompt by {plan['prompt_chunk']}" if plan["prompt_chunk"] < WHOLE["prompt_chunk"] else "",
        f"loss by {plan['loss_chunk']}" if plan["loss_chunk"] < WHOLE["loss_chunk"] else "",
        f"MLP by {plan['mlp_tile']}" if plan["mlp_tile"] else "",
        "moments in 8 bits" if plan["optimizer_bits"] == 8 else "",
    ]
    return ", ".join(word for word in words if word)
