"""A cell of the quality bench: LARS or PEFT's LoRA trained on the persona's feedback, and its scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from examples.persona import lessons, probes
from lars_agent.example import Message
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.forward import Batch, reply_logits
from lars_agent.lars.inject import Attachment
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.runtime.hf_backend import HfSequence
from lars_agent.training.batches import Encoded, batch_indices, collate, encode, pad_id
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import REHEARSAL_TEXT, general_text, reply_nll, token_losses
from lars_agent.training.trainer import TrainConfig, Trainer, learning_rate

REPLY_TOKENS = 40


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
        texts = [greedy_reply(self.attachment, adapter, self.tokenizer, probe.prompt) for probe in held_out]
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
        return adapter.eval(), trainer.progress.best_step, trainer.progress.best_loss

    def _lora(self) -> tuple[None, int, float]:
        """PEFT's LoRA on every linear layer but the head (r 8, alpha 16, dropout 0.05), rehearsed and kept as ours."""
        torch.manual_seed(self.config.seed)
        lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(self.attachment.model, lora)
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

    def _divergence(self, model: PeftModel, step: int) -> torch.Tensor:
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
def greedy_reply(
    attachment: Attachment, adapter: LarsAdapter | None, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> str:
    """The greedy reply to a prompt, by the endpoint's decoder for whatever stands in the model (LoRA too)."""
    sequence = HfSequence(attachment, adapter, encode_prompt(tokenizer, [Message(role="user", content=prompt)]))
    list(sequence.prefill())
    ids: list[int] = []
    while (token := int(sequence.logits.argmax())) != tokenizer.eos_token_id and len(ids) < REPLY_TOKENS:
        ids.append(token)
        sequence.step(token)
    return tokenizer.decode(ids, skip_special_tokens=True).strip()
