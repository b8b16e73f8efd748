"""LARS beside PEFT's LoRA: the same facts, corrected once, by the weights alone, whatever they are about.

Both read the same examples in the same wordings and order, rehearse the same text and take as many steps; LoRA is
compared at the best of its rates. Neither is helped by recall, or closed for questions about somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.child import call
from bench.quality.once import KINDS, REPLY_TOKENS, questions, scores
from bench.quality.people import facts
from bench.quality.persona import reply, train_lars, train_lora
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from lars_agent.example import Example, Message
from lars_agent.lars import LarsAdapter, attach
from lars_agent.memory.measure import peak_rss_bytes
from lars_agent.models.open import open_model, precision
from lars_agent.training.batches import pad_id
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import general_text, token_losses
from lars_agent.training.job_rows import encode_examples
from lars_agent.training.trainer import TrainConfig

LARS, LORA = "response+token", "lora"
RATES = {LARS: (2e-3,), LORA: (1e-3, 2e-3, 4e-3)}


def cells(count: int, steps: int, seed: int) -> list[Record]:
    """LARS at its default rate, and LoRA at each of several."""
    same = {"facts": count, "steps": steps, "seed": seed}
    return [{"method": method, "rate": rate, **same} for method, rates in RATES.items() for rate in rates]


def measure_cell(model: Path, cell: Record) -> dict[str, Any]:
    """Train and ask in a process of its own."""
    return dict(call("bench.quality.lora.run_cell", model, cell))


def run_cell(folder: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of the cell, its rise of the loss on general text, and what its training took."""
    torch.set_num_threads(1)
    config = TrainConfig(steps=cell["steps"], learning_rate=cell["rate"], checkpoint_every=10_000, seed=cell["seed"])
    known = facts(cell["facts"], cell["seed"])
    told = [
        Example((Message(role="user", content=fact.wordings[0]),), fact.correction, source_id=str(number))
        for number, fact in enumerate(known)
    ]
    opened = open_model(Path(folder), *precision("auto"))
    tokenizer, attachment, pad = opened.tokenizer, attach(opened.model), pad_id(opened.tokenizer)
    curated = curate(told, CurationPolicy(), seed=0)
    rows = encode_examples(curated.train, curated.heldout, config, tokenizer)
    general = general_text(tokenizer)

    def text_loss(adapter: LarsAdapter | None) -> float:
        return float(token_losses(attachment, adapter, general, pad).mean())

    base_text, started = text_loss(None), time.process_time()
    adapter = (train_lora if cell["method"] == LORA else train_lars)(attachment, rows, pad, cell["method"])
    took = {"cpu_seconds": round(time.process_time() - started, 3), "peak_bytes": peak_rss_bytes()}
    asked = questions(known)
    replies = [reply(attachment, adapter, tokenizer, question, REPLY_TOKENS) for _, _, question in asked]
    return took | {"text_rise": round(text_loss(adapter) / base_text - 1, 4)} | scores(known, asked, replies)


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
