"""A cell of the quality bench: LARS or PEFT's LoRA trained on the persona's feedback, and its scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerBase

from bench.memory.peft_step import peft_model
from examples.persona import lessons, probes
from lars_agent.example import Message
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.forward import Batch, positions, read_prompt, reply_logits
from lars_agent.lars.inject import AdapterMemory, Attachment
from lars_agent.lars.pooling import Tokens
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.training.batches import Encoded, batch_indices, collate, encode, pad_id
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import REHEARSAL_TEXT, general_text, reply_nll, token_losses
from lars_agent.training.trainer import TrainConfig, Trainer, learning_rate

REPLY_TOKENS, BATCH = 40, 16


def run_cell(folder: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's key and its scores, measured in this process on one thread."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=key["steps"],
        batch_size=key["batch_size"],
        learning_rate=key["rate"],
        evaluate_every=10,
        checkpoint_every=10_000,
        seed=key["seed"],
    )
    return {**key, **Cell(open_model(Path(folder), torch.float32), config).run(key["method"])}


class Cell:
    def __init__(self, opened: OpenedModel, config: TrainConfig) -> None:
        self.tokenizer, self.config = opened.tokenizer, config
        self.attachment: Attachment = attach(opened.model)
        self.pad = pad_id(opened.tokenizer)
        curated = curate(lessons(), CurationPolicy(), seed=0)
        self.train = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.train]
        self.heldout = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.heldout]
        self.general = general_text(self.tokenizer)
        self.rehearsal = general_text(self.tokenizer, REHEARSAL_TEXT)

    def run(self, method: str) -> dict[str, Any]:
        """Train by the method; return the scores."""
        base_text = float(token_losses(self.attachment, None, self.general, self.pad).mean())
        started = time.monotonic()
        adapter, best_step, heldout = self._lora() if method == "lora" else self._lars(method)
        seconds = time.monotonic() - started
        return self._scores(adapter) | {
            "best_step": best_step,
            "heldout_loss": round(heldout, 4),
            "text_rise": round(
                float(token_losses(self.attachment, adapter, self.general, self.pad).mean()) / base_text - 1, 4
            ),
            "train_seconds": round(seconds, 1),
        }

    def _scores(self, adapter: LarsAdapter | None) -> dict[str, Any]:
        held_out = probes()
        texts = replies(self.attachment, adapter, self.tokenizer, [probe.prompt for probe in held_out])
        passed = {
            kind: [p.passed(text) for p, text in zip(held_out, texts, strict=True) if p.kind == kind]
            for kind in ("fact", "style")
        }
        return {f"{kind}_rate": round(sum(marks) / len(marks), 4) for kind, marks in passed.items()}

    def _lars(self, method: str) -> tuple[LarsAdapter, int, float]:
        pooling, _, token = method.partition("+")
        lars = LarsConfig(pooling=pooling, token_term=token == "token")  # type: ignore[arg-type]
        adapter = LarsAdapter.for_model(self.attachment.model, lars, seed=self.config.seed)
        trainer = Trainer(self.attachment, adapter, self.config, self.train, self.heldout, self.pad, self.rehearsal)
        trainer.run()
        return adapter, trainer.progress.best_step, trainer.progress.best_loss

    def _lora(self) -> tuple[None, int, float]:
        """PEFT's LoRA on every linear layer but the head (r 8, alpha 16, dropout 0.05), rehearsed and kept as ours."""
        torch.manual_seed(self.config.seed)
        model = peft_model("lora", self.attachment.model, alpha=16)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        for step in range(self.config.steps):
            model.train()
            batch = self._batch(self.train, self.config.batch_size, step)
            (reply_nll(self.attachment, None, batch).sum() / batch.reply_tokens).backward()
            (self.config.rehearsal_weight * self._divergence(model, step)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        return None, self.config.steps, float(token_losses(self.attachment, None, self.heldout, self.pad).mean())

    def _divergence(self, model: PeftModel, step: int) -> Tensor:
        """KL(base model || adapted model) on general text, as `divergence_from_base` with LoRA switched off and on."""
        batch = self._batch(self.rehearsal, self.config.rehearsal_batch, step)
        with torch.no_grad(), model.disable_adapter():
            base = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        adapted = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        return functional.kl_div(adapted, base, reduction="batchmean", log_target=True)

    def _batch(self, rows: Sequence[Encoded], size: int, step: int) -> Batch:
        """The batch of `Trainer` at that step."""
        return collate([rows[index] for index in batch_indices(len(rows), size, step, self.config.seed)], self.pad)


@torch.no_grad()
def replies(
    attachment: Attachment, adapter: LarsAdapter | None, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[str]:
    """Greedy replies to `prompts`, decoded with the KV cache in batches, as the endpoint would decode each alone."""
    if adapter is not None:
        adapter.eval()
    rows = [
        Encoded(tuple(encode_prompt(tokenizer, [Message(role="user", content=prompt)])), (0,), 1.0, str(index))
        for index, prompt in enumerate(prompts)
    ]
    rows.sort(key=lambda row: len(row.prompt))
    texts: dict[int, str] = {}
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        ids = _decode(attachment, adapter, collate(some, pad_id(tokenizer)), tokenizer.eos_token_id)
        for row, line in zip(some, ids.tolist(), strict=True):
            end = line.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in line else len(line)
            texts[int(row.source_id)] = tokenizer.decode(line[:end], skip_special_tokens=True).strip()
    return [texts[index] for index in range(len(prompts))]


def _decode(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, end: int) -> Tensor:
    """(B, T) greedily chosen ids; rows go on after their end, to be cut by the caller."""
    memory, mask, ids = AdapterMemory(), batch.prompt_mask, batch.prompt_ids
    if adapter is not None and adapter.config.pooling == "response":
        cache = read_prompt(attachment, adapter, memory, ids, mask)
        ids = ids[:, -1:]
    else:
        cache = DynamicCache(config=attachment.model.config)
    chosen: list[Tensor] = []
    ended = torch.zeros(len(mask), dtype=torch.bool)
    for step in range(REPLY_TOKENS):
        real = mask[:, -ids.shape[1] :]
        tokens = Tokens(real=real, prompt=real if step == 0 else None, offset=mask.sum(1) - real.sum(1))
        with attachment.call(adapter, memory, tokens):
            logits = attachment.model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions(mask)[:, -ids.shape[1] :],
                **attachment.cached(cache),
                logits_to_keep=1,
            ).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(ids)
        ended |= ids[:, 0] == end
        if ended.all():
            break
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], dim=1)
    return torch.cat(chosen, dim=1)
