"""A cell of the quality bench: LARS or PEFT's LoRA trained on the persona's feedback, and its scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from bench.memory.peft_step import peft_model
from examples.persona import lessons, probes
from lars_agent.example import Message
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.decoding import greedy_replies
from lars_agent.lars.forward import reply_logits
from lars_agent.lars.inject import Attachment
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import open_model
from lars_agent.training.batches import collate, encode, pad_id
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import REHEARSAL_TEXT, general_text, token_losses, token_nll
from lars_agent.training.job_rows import JobRows
from lars_agent.training.trainer import TrainConfig, Trainer, learning_rate

REPLY_TOKENS = 40


def run_cell(folder: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of the cell, which is trained by its method in this process on one thread."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=key["steps"],
        batch_size=key["batch_size"],
        learning_rate=key["rate"],
        evaluate_every=10,
        checkpoint_every=10_000,
        seed=key["seed"],
    )
    opened = open_model(Path(folder), torch.float32)
    tokenizer, attachment, pad = opened.tokenizer, attach(opened.model), pad_id(opened.tokenizer)
    curated = curate(lessons(), CurationPolicy(), seed=0)
    train, heldout = (
        [encode(tokenizer, example, config.max_seq_len) for example in examples]
        for examples in (curated.train, curated.heldout)
    )
    rows = JobRows(config, train, heldout, general_text(tokenizer, REHEARSAL_TEXT))
    general = general_text(tokenizer)

    def text_loss(adapter: LarsAdapter | None) -> float:
        return float(token_losses(attachment, [adapter], general, pad)[0].mean())

    base_text = text_loss(None)
    adapter = (train_lora if key["method"] == "lora" else train_lars)(attachment, rows, pad, key["method"])
    passed: dict[str, list[bool]] = {"fact": [], "style": []}
    for probe in probes():
        passed[probe.kind].append(probe.passed(reply(attachment, adapter, tokenizer, probe.prompt)))
    rates = {f"{kind}_rate": round(statistics.mean(marks), 4) for kind, marks in passed.items()}
    return rates | {"text_rise": round(text_loss(adapter) / base_text - 1, 4)}


def train_lars(attachment: Attachment, rows: JobRows, pad: int, method: str) -> LarsAdapter:
    """The trained adapter, in evaluation mode."""
    pooling, _, token = method.partition("+")
    lars = LarsConfig(pooling=pooling, token_term=token == "token")  # type: ignore[arg-type]
    adapter = LarsAdapter.for_model(attachment.model, lars, seed=rows.config.seed)
    Trainer(attachment, adapter, rows, pad).run()
    return adapter.eval()


def train_lora(attachment: Attachment, rows: JobRows, pad: int, method: str) -> None:
    """Train PEFT's LoRA on every linear layer but the head (r 8, alpha 16, dropout 0.05), rehearsed and kept as ours.

    It stays in the attachment's model.
    """
    config = rows.config
    torch.manual_seed(config.seed)
    model = peft_model("lora", attachment.model, alpha=16)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.steps):
        model.train()
        batch = collate([row for _, row in rows.lessons(step)], pad)
        (token_nll(attachment, None, batch).sum() / batch.reply_tokens).backward()
        passages = collate(rows.passages(step), pad)
        # KL(base model || adapted model), as `divergence_from_base` with LoRA switched off and on
        with torch.no_grad(), model.disable_adapter():
            base = reply_logits(attachment, None, passages).log_softmax(dim=-1)
        adapted = reply_logits(attachment, None, passages).log_softmax(dim=-1)
        divergence = functional.kl_div(adapted, base, reduction="batchmean", log_target=True)
        (config.rehearsal_weight * divergence).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config, config.steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()


def reply(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    tokens: int = REPLY_TOKENS,
) -> str:
    """The greedy reply to `prompt`, by the endpoint's own decoder."""
    ids = encode_prompt(tokenizer, [Message(role="user", content=prompt)])
    (chosen,) = greedy_replies(attachment, adapter, [ids], tokenizer.eos_token_id, tokens)
    return str(tokenizer.decode(chosen, skip_special_tokens=True)).strip()
