"""`lars-agent plan`: how the next adaptation would keep its memory budget, as a table and a bar."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

BAR_WIDTH = 40
LEVERS = {
    "micro_batch": "at once",
    "recompute": "recompute",
    "saved": "kept",
    "prompt_chunk": "prompt",
    "loss_chunk": "loss",
    "mlp_tile": "MLP tile",
    "optimizer_bits": "moments",
}
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
    return f"[{bar}] {peak / budget:.0%} of the budget of {budget / 2**20:,.0f} MiB"


def _ladder(ladder: list[dict[str, Any]], shown: dict[str, Any]) -> Table:
    """Every plan worth having: what a smaller budget would cost in time."""
    table = Table("", "peak, MiB", "time of a step", "", *LEVERS.values())
    for planned in ladder:
        plan = planned["plan"]
        table.add_row(
            "*" if plan == shown["plan"] else "",
            f"{planned['predicted_peak_bytes'] / 2**20:,.0f}",
            f"{planned['step_seconds']:,.1f} s",
            f"{planned['relative_time']:.2f} x",
            *(_lever(plan[lever]) for lever in LEVERS),
        )
    return table


def _lever(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value or "-")
