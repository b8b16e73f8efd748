"""The process that trains one method and asks for what it learned; see `bench.quality.lora`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.quality.lora import LORA
from bench.quality.once import REPLY_TOKENS, questions, scores
from bench.quality.people import facts
from bench.quality.persona import reply, train_lars, train_lora
from lars_agent.example import Example, Message
from lars_agent.lars import LarsAdapter, attach
from lars_agent.memory.measure import peak_rss_bytes
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_model
from lars_agent.training.batches import pad_id
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import general_text, token_losses
from lars_agent.training.job_rows import encode_examples
from lars_agent.training.trainer import TrainConfig


def run_cell(folder: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of the cell, its rise of the loss on general text, and what its training took."""
    torch.set_num_threads(1)
    config = TrainConfig(steps=cell["steps"], learning_rate=cell["rate"], checkpoint_every=10_000, seed=cell["seed"])
    known = facts(cell["facts"], cell["seed"])
    told = [
        Example((Message(role="user", content=fact.wordings[0]),), fact.correction, source_id=str(number))
        for number, fact in enumerate(known)
    ]
    opened = open_model(Path(folder), *precision("auto", Path(folder)))
    tokenizer, attachment, pad = opened.tokenizer, attach(opened.model), pad_id(opened.tokenizer)
    curated = curate(told, CurationPolicy(), seed=0)
    rows = encode_examples(curated.train, curated.heldout, config, tokenizer)
    general = general_text(tokenizer)

    def text_loss(adapter: LarsAdapter | None) -> float:
        return float(token_losses(attachment, [adapter], general, pad)[0].mean())

    base_text, started = text_loss(None), time.process_time()
    adapter = (train_lora if cell["method"] == LORA else train_lars)(attachment, rows, pad, cell["method"])
    took = {"cpu_seconds": round(time.process_time() - started, 3), "peak_bytes": peak_rss_bytes()}
    asked = questions(known)
    replies = [reply(attachment, adapter, tokenizer, question, REPLY_TOKENS) for _, _, question in asked]
    return took | {"text_rise": round(text_loss(adapter) / base_text - 1, 4)} | scores(known, asked, replies)
